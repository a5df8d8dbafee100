"""Where the command line computes."""


def usable_device(wanted: str | None) -> str:
    """The device that was asked for; else a GPU where there is one, else the CPU.

    Raises:
        InputError: torch cannot use it.
    """
    import torch

    from restain.errors import InputError

    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: torch cannot use it here; 'cpu' always works") from error
    return device
