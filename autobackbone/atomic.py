"""Writing a file at once: readers see the old content or the new one, and a failure leaves the old one."""

import errno
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write text to a file at once, as UTF-8. Links stay links, and the file keeps its mode.

    Written in place are devices, files that have several names, and files in a folder that nothing can be added to.

    Raises
    ------
    OSError
        If the file cannot be written; if it can be replaced, it is then as it was.
    """
    import shutil  # not for those who only read

    target = Path(os.path.realpath(path))
    exists = target.exists()
    if exists and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if exists and (not target.is_file() or target.stat().st_nlink > 1 or str(path).startswith(("/dev/", "/proc/"))):
        path.write_text(text, encoding="utf-8")
        return
    partial = target.with_name(f"{target.name[:200]}.{os.urandom(4).hex()}.partial")
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
        if exists:
            shutil.copymode(target, partial)
        partial.replace(target)
    except PermissionError:
        if not exists:
            raise
        target.write_text(text, encoding="utf-8")
    finally:
        partial.unlink(missing_ok=True)
