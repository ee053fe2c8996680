"""`python -m encas` is `encas`."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from encas.cli import app  # noqa: PLC0415  (takes long enough to be stopped in)
    except KeyboardInterrupt:  # before there is anything that could say it better
        sys.exit("encas: stopped")
    app()


if __name__ == "__main__":
    main()
