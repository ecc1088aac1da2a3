"""`python -m sciencessl`."""

from sciencessl.cli import main

if __name__ == "__main__":
    main()
