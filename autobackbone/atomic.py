"""Writing a file at once: readers see the old content or the new one, and a failure leaves the old one."""

import errno
import os
from pathlib import Path

_MODE = 0o644  # of new files; temporary ones are readable by their owner alone


def write_text(path: Path, text: str) -> None:
    """Write text to a file at once, as UTF-8. Links stay links, and the file keeps its mode.

    Raises
    ------
    OSError
        If the file cannot be written; it is then as it was.
    """
    import shutil  # not for those who only read
    import tempfile

    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():  # a device or a pipe has nothing to lose, and cannot be replaced
        path.write_text(text, encoding="utf-8")
        return
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False, encoding="utf-8") as file:
        partial = Path(file.name)
        try:
            file.write(text)
            file.close()
            if path.exists():
                shutil.copymode(path, partial)
            else:
                partial.chmod(_MODE)
            partial.replace(path)
        except BaseException:
            file.close()
            partial.unlink(missing_ok=True)
            raise
