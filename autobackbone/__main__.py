"""``python -m autobackbone`` is the command line."""

from autobackbone.cli import main

if __name__ == "__main__":
    main()
