"""The command ``onstream``, also as ``python -m onstream``."""

import os


def main() -> None:
    """Run the command line."""
    # Threads that wait for the next operation of a network must not spin: reading and hashing need the
    # processors too. OpenMP reads this once, when PyTorch is loaded, so nothing may be imported before.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Large tensors come and go with every batch: huge pages spare most of their page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from onstream.cli.app import run

    run()


if __name__ == "__main__":
    main()
