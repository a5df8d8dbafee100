"""Models on the Hugging Face Hub: `hf://owner/name[@revision]`, fetched into its cache and published from a file.

One file is read, `model.safetensors`: weights and their header, never code. The client is huggingface_hub, of the extra
`hub`; it finds tokens, caches and mirrors by its own settings (`HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

from restain.errors import InputError, MissingError, OutputError

WEIGHTS, CARD = "model.safetensors", "README.md"
"""The files of a repository."""

_ADDRESS = re.compile(r"hf:/{1,2}([^/@\s]+/[^/@\s]+)(?:@(\S+))?")  # a Path has made one slash of two
_PART = re.compile(r"[A-Za-z0-9]([\w.-]*\w)?")
_CACHED = re.compile(r"models--(.+)")


@dataclass(frozen=True)
class Address:
    """A model on the hub."""

    repository: str
    """OWNER/NAME."""
    revision: str | None = None
    """Branch, tag or commit; None is the main branch."""

    @classmethod
    def read(cls, words: Path | str) -> Self | None:
        """The address that is meant, or None where something else is.

        Raises:
            InputError: it begins like an address and is none.
        """
        if not str(words).startswith("hf:"):
            return None
        found = _ADDRESS.fullmatch(str(words))
        if not found or not all(map(_PART.fullmatch, found[1].split("/"))):
            raise InputError(
                f"'{words}' is no address on the hub; expected hf://owner/name or hf://owner/name@revision"
            )
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


def fetch(address: Address) -> Path:
    """The weights of a model, from the cache or the hub; without a network, what is in the cache.

    Raises:
        InputError: the package for it is not installed.
        MissingError: there is no such repository, revision or file, or no way to it.
    """
    with _in_words(address):
        from huggingface_hub import hf_hub_download

        return Path(
            hf_hub_download(
                address.repository,
                WEIGHTS,
                revision=address.revision,
                library_name="restain",
                library_version=version("restain"),
            )
        )


def publish(weights: Path, card: str, repository: str, *, private: bool = False, message: str = "") -> str:
    """Put a checkpoint and its card into a repository of the hub, which is made where it is missing, in one commit.

    Args:
        weights: the checkpoint.
        card: Markdown, with the front matter that the hub reads.
        repository: OWNER/NAME.
        private: whether a new repository is private.
        message: of the commit.

    Returns:
        Where the commit is to be seen.

    Raises:
        InputError: the repository is no OWNER/NAME, or the package for it is not installed.
        OutputError: the hub refuses, or cannot be reached.
    """
    address = Address.read(f"hf://{repository}")
    if address is None or address.revision:
        raise InputError(f"'{repository}' is no repository; expected owner/name")
    with _in_words(address, publishing=True):
        from huggingface_hub import CommitOperationAdd, HfApi

        hub = HfApi(library_name="restain", library_version=version("restain"))
        hub.create_repo(repository, private=private, exist_ok=True)
        commit = hub.create_commit(
            repository,
            [CommitOperationAdd(WEIGHTS, weights), CommitOperationAdd(CARD, card.encode())],
            commit_message=message or f"Weights by restain {version('restain')}",
        )
        return str(commit.commit_url)


def cached_name(weights: Path) -> str | None:
    """OWNER--NAME of a file in the cache of the hub; None for any other file."""
    found = _CACHED.fullmatch(weights.parents[2].name) if len(weights.parents) > 2 else None
    return found[1] if found and weights.parents[1].name == "snapshots" else None


@contextmanager
def _in_words(address: Address, *, publishing: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises into a sentence."""
    try:
        from huggingface_hub import errors
    except ImportError:
        raise InputError(f"{address} needs the package huggingface_hub; pip install 'restain[hub]'") from None
    kind = OutputError if publishing else MissingError
    try:
        yield
    except errors.GatedRepoError as error:
        raise kind(f"{address} is gated; ask its owner for access on its page, then set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise kind(
            f"the hub has no model {address}, or hides it; check the name, and set HF_TOKEN if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise kind(
            f"{address.repository} has no revision '{address.revision}'; give a branch, a tag or a commit"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise kind(
            f"{address}: the hub cannot be reached, and {WEIGHTS} is not in the cache; connect and try again"
        ) from error
    except errors.EntryNotFoundError as error:
        raise kind(f"{address} has no {WEIGHTS}, so restain did not publish it; give a model that has one") from error
    except errors.LocalTokenNotFoundError as error:
        raise kind(
            f"{address}: publishing needs a token with write access; set HF_TOKEN, or run hf auth login"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        way_out = "set HF_TOKEN to a token with access" if status in (401, 403) else "try again later"
        raise kind(f"{address}: the hub answers {status or 'with an error'}; {way_out}") from error
    except Exception as error:  # connections fail in the words of another package
        raise kind(f"{address}: the hub cannot be reached ({type(error).__name__}); connect and try again") from error
