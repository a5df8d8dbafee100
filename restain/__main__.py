"""`python -m restain` is `restain`."""

from restain.cli import main

if __name__ == "__main__":
    main()
