"""``python -m connector`` is the command ``jirani``."""

from connector.cli import main

if __name__ == "__main__":
    main(prog_name="jirani")
