"""An export sent to the Hugging Face Hub, or to what speaks its protocol (`HF_ENDPOINT`)."""

from pathlib import Path

from tpo.use.export_check import ExportError


def push_export(path: Path, name: str, *, is_private: bool) -> str:
    """Upload an export as a new repository and return its address.

    Args:
        path: The export.
        name: Of the repository, "organization/name"; there must be none of this name.
        is_private: Whether only its owner sees it.

    Raises:
        ExportError: If there is one already, nobody is logged in, or the Hub refuses or is away; the export stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api, kept = HfApi(), f"the export stays in {path}"
    try:
        address = api.create_repo(name, private=is_private, exist_ok=False)
        api.upload_folder(repo_id=name, folder_path=path, commit_message="Add the exported policy")
    except LocalTokenNotFoundError as error:
        raise ExportError(f"push={name}: nobody is logged in: run `hf auth login`; {kept}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = {
            401: "nobody is logged in, or the token is not valid: run `hf auth login`",
            403: "the token may not write there",
            409: "there is a repository of this name already, which is not overwritten: give another",
        }.get(status, f"the Hub refused it ({str(error).splitlines()[0]})")
        raise ExportError(f"push={name}: {said}; {kept}") from error
    except Exception as error:  # errors of the client's own way of reaching it have no class in common
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ExportError(f"push={name}: {said}; {kept}") from error
    return str(address)
