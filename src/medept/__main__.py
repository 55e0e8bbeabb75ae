"""``python -m medept``."""

from medept.cli import main

if __name__ == "__main__":
    main()
