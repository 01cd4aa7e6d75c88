"""Where the project's own checkpoints belong on the Hub: one organisation, one repository for each ``arch.tag``."""

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from madzoo.checkpoint.resolve import HUB, parse_name
from madzoo.errors import ConfigError

__all__ = ["ORGANIZATION", "check_repo_id", "repo_id_of"]

ORGANIZATION = "madzoo"


def repo_id_of(full_name: str, *, organization: str = ORGANIZATION) -> str:
    """Returns the repository that a checkpoint is published as, which does not say that it has been.

    Args:
        full_name: ``arch.tag``.
        organization: who publishes; a user or an organisation of the Hub.

    Raises:
        ConfigError: when the Hub allows no such name.

    Example:
        >>> repo_id_of("weft_micro_patch8_32.cifar10")
        'madzoo/weft_micro_patch8_32.cifar10'
    """
    return check_repo_id(f"{organization}/{full_name}")


def check_repo_id(repo_id: object) -> str:
    """Returns ``org/repo`` where the Hub allows such a name.

    Raises:
        UnknownModelError: when it is not of the form ``org/repo``.
        ConfigError: when the Hub's own grammar forbids it (length, ``--``, ``..``, a last ``.git``).
    """
    location = parse_name(f"{HUB}{repo_id}")
    if location.revision is not None:
        raise ConfigError("a repository is named without a revision.", asked=repo_id, todo="revision=BRANCH")
    try:
        validate_repo_id(location.repo)
    except HFValidationError as error:
        raise ConfigError(f"the Hub allows no such repository: {error}", asked=repo_id) from error
    return location.repo
