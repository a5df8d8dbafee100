"""The device that the command line computes on."""


def usable_device(wanted: str | None) -> str:
    """The requested device, else a GPU if there is one, else the CPU.

    Raises:
        InputError: torch cannot use it.
    """
    import torch

    from restain.errors import InputError

    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device} is not available to torch; use cpu, which always works") from error
    return device
