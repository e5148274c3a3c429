"""Everything about a server that can be set; each default stands here and nowhere else."""

# Annotations are real types here: pydantic reads them.

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from joyimage.errors import InvalidInputError
from joyimage.serving.security.keys import read_keys


def _split_names(value: Any) -> Any:
    """Read "a,b" and '["a", "b"]', as the environment and the command line have them.

    Raises:
        ValueError: It is not empty, but holds no name.
    """
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    names = tuple(part.strip() for part in value.split(",") if part.strip())
    if value and not names:
        # Nothing given means a default, which for hosts may be all of them.
        raise ValueError("it holds no name; expected names with commas between them")
    return names


def _data_dir() -> Path:
    """Return the folder of records where none is given.

    Raises:
        InvalidInputError: The user has no home folder, as in some containers.
    """
    try:
        return Path.home() / ".local" / "share" / "joyimage"
    except RuntimeError:
        raise InvalidInputError(
            "`data_dir` is missing, and this user has no home folder; expected a folder for records and results."
        ) from None


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_names)]
_ADDRESS = re.compile(r"https?://[^/\s?#]+(/[^\s?#]*)?")
_DATABASE = re.compile(r"sqlite:///.|postgresql(\+psycopg)?://.")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


class ServerSettings(BaseSettings):
    """Settings of a server, from arguments or from JOYIMAGE_... in the environment.

    Attributes:
        model: Checkpoint folder, hub id, or "tiny".
        transformer: Weight file of the transformer, instead of the model's own; without `model`, the configs are
            those of the published model.
        text_encoder: Weight file of the text encoder, instead of the model's own.
        vae: Weight file of the VAE, instead of the model's own.
        quantize: "int8", "fp8" or "nf4" quantizes large layers while loading, "none" decodes quantized files; None
            keeps the format of the files.
        offload: Memory plan: "none", "model", "block" or "disk"; None: the fastest that fits the free memory.
        model_name: Name of the model for clients; None: the last part of `model`.
        model_aliases: More names of the model for clients, such as "gpt-image-1".
        loras: Adapters that clients may request: name and file.
        device: Device, such as "cuda" or "cpu"; None: the fastest one available.
        dtype: Precision: "bfloat16", "float16", "float32" or "auto" (measured on a CPU); None: float32 on a CPU, else
            bfloat16.
        base_size: Side in pixels of the square bucket; None: the checkpoint's own.
        gpus: Number of devices that share each edit: 1, 2, 4 or 8; together with several replicas, Ray is required.
        gpu_layout: How they share it: "guidance" (a guidance branch on each), or "tensor" (a slice of the transformer's
            layers on each, for GPUs that cannot hold it whole).
        replicas: Number of pipelines; several share the devices of a kind in turn.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        allowed_hosts: Accepted values of the Host header; if empty, those of loopback on loopback, else any.
        trusted_proxies: Addresses or networks of proxies whose X-Forwarded-For is trusted.
        cors_origins: Origins of web pages that may call the server.
        public_url: URL under which clients reach the server, for the URLs of results; None: as in the request.
        data_dir: Folder for records, uploads and results.
        database: Database URL, such as "postgresql+psycopg://user@host/name"; None: a SQLite file in `data_dir`.
        api_keys: API keys, separated by commas, each "name:key" or only a key.
        api_keys_file: File with one API key, or name:key, per line; read again when it changes.
        allow_anonymous: Whether the server may listen on addresses other than loopback without API keys.
        queue_size: Maximum number of queued jobs.
        client_jobs: Maximum number of queued or running jobs per client.
        session_bytes: Maximum size of the features of earlier images that a pipeline caches for their next edit, in
            bytes.
        max_batch: Maximum number of jobs with equal settings that run as one batch.
        batch_pixels: Maximum number of pixels of all outputs of a batch.
        job_timeout_s: Maximum run time of a job.
        queue_timeout_s: Maximum time that a job may wait.
        upload_timeout_s: Maximum time until the body of a request has arrived.
        shutdown_grace_s: How long a running job may continue after the server is asked to stop.
        hang_timeout_s: How long a device call may continue after the time limit of a job before the server ends
            itself.
        write_timeout_s: Maximum time that a client may take to read a part of an answer.
        header_timeout_s: Maximum time until the headers of a request have arrived.
        max_connections: Maximum number of open connections.
        client_streams: Maximum number of event streams per client.
        client_requests_per_minute: Maximum number of requests per client and minute; None for no limit.
        client_bytes: Maximum size of a client's images on disk, in bytes; None for no limit.
        stored_bytes: Maximum size of all images on disk, in bytes; None for no limit.
        client_device_s: Maximum device time per client and hour, in seconds; None for no limit.
        max_pending_uploads: Maximum number of requests whose images are being decoded or wait for it.
        max_pending_bytes: Maximum size of all requests in memory, in bytes; each client gets half.
        max_body_bytes: Maximum size of a request, in bytes.
        max_image_bytes: Maximum size of an image file, in bytes.
        max_image_pixels: Maximum number of pixels of an image, checked before it is decoded.
        max_decode_s: Maximum time to decode an image.
        max_output_pixels: Maximum number of pixels of one output.
        max_images: Maximum number of images per request.
        max_outputs: Maximum number of outputs per request.
        max_steps: Maximum number of steps of an edit.
        max_new_tokens: Maximum number of tokens of a description.
        max_prompt_chars: Maximum length of a prompt, in characters.
        keep_s: How long records and results of finished jobs are kept, in seconds.
        image_urls: Whether the server fetches images from public URLs in requests.
        url_timeout_s: Maximum time to fetch an image.
        preview: "auto", "latent" or "decoded": how steps are drawn; "auto" decodes where that hardly counts.
        preview_px: Longest side of a step's preview; of a decoded one, twice that.
        web_dir: Folder of the page at "/"; that of the package, where it has one, if None.
        log_json: Whether each line of the log is a JSON object.
    """

    model_config = SettingsConfigDict(env_prefix="JOYIMAGE_", extra="forbid", validate_default=True)

    model: str = "tiny"
    transformer: Path | None = None
    text_encoder: Path | None = None
    vae: Path | None = None
    quantize: Literal["none", "int8", "fp8", "nf4"] | None = None
    offload: Literal["auto", "none", "model", "block", "disk"] | None = None
    model_name: str | None = None
    model_aliases: Names = ()
    loras: dict[str, Path] = Field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    base_size: int | None = None
    gpus: Literal[1, 2, 4, 8] = 1
    gpu_layout: Literal["guidance", "tensor"] = "guidance"
    replicas: int = Field(default=1, ge=1)

    host: str = "127.0.0.1"
    port: int = Field(default=8600, ge=0, le=65535)
    allowed_hosts: Names = ()
    cors_origins: Names = ()
    trusted_proxies: Names = ()
    public_url: str | None = None

    data_dir: Path = Field(default_factory=_data_dir)
    database: str | None = Field(default=None, repr=False)  # it may hold a password

    api_keys: SecretStr | None = None
    api_keys_file: Path | None = None
    allow_anonymous: bool = False

    queue_size: int = Field(default=128, ge=1)
    client_jobs: int = Field(default=64, ge=1)
    session_bytes: int = Field(default=2**30, ge=0)
    max_batch: int = Field(default=4, ge=1)
    batch_pixels: int = Field(default=4 * 256 * 256, ge=0)

    job_timeout_s: float = Field(default=900, gt=0)
    queue_timeout_s: float = Field(default=3600, gt=0)
    upload_timeout_s: float = Field(default=60, gt=0)
    shutdown_grace_s: float = Field(default=20, ge=0)

    hang_timeout_s: float = Field(default=300, gt=0)
    write_timeout_s: float = Field(default=60, gt=0)
    header_timeout_s: float = Field(default=20, gt=0)
    max_connections: int = Field(default=2000, ge=1)
    client_streams: int = Field(default=100, ge=1)
    client_requests_per_minute: int | None = Field(default=None, ge=1)
    client_bytes: int | None = Field(default=None, ge=1)
    stored_bytes: int | None = Field(default=None, ge=1)
    client_device_s: float | None = Field(default=None, gt=0)
    max_pending_uploads: int = Field(default=64, ge=1)
    max_pending_bytes: int = Field(default=2**30, ge=1)

    max_body_bytes: int = Field(default=120 * 2**20, ge=1)
    max_image_bytes: int = Field(default=50 * 2**20, ge=1)
    max_image_pixels: int = Field(default=64_000_000, ge=1)
    max_decode_s: float = Field(default=30, gt=0)
    max_output_pixels: int = Field(default=2048 * 2048, ge=1)
    max_images: int = Field(default=16, ge=1)
    max_outputs: int = Field(default=10, ge=1, le=1000)
    max_steps: int = Field(default=100, ge=1, le=1000)
    max_new_tokens: int = Field(default=1024, ge=1, le=4096)
    max_prompt_chars: int = Field(default=32_000, ge=1)
    keep_s: float = Field(default=24 * 3600, gt=0)

    image_urls: bool = False
    url_timeout_s: float = Field(default=10, gt=0)
    preview: Literal["auto", "latent", "decoded"] = "auto"
    preview_px: int = Field(default=256, ge=16)
    web_dir: Path | None = None
    log_json: bool = False

    @field_validator("trusted_proxies")
    @classmethod
    def _checked_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            ipaddress.ip_network(one, strict=False)
        return value

    @model_validator(mode="after")
    def _check(self) -> "ServerSettings":
        if self.public_url is not None and not _ADDRESS.fullmatch(self.public_url):
            raise ValueError(
                f"`public_url` is {self.public_url!r}; expected an address such as https://images.example.org."
            )
        if self.database is not None and not _DATABASE.match(self.database):
            # Not the whole value, which may hold a password.
            scheme, slashes, _ = self.database.partition("//")
            given = f"begins with {scheme[:40]!r}" if slashes else "is not an address"
            raise ValueError(
                f"`database` {given}; expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME."
            )
        is_open = not self.is_loopback and not self.allow_anonymous
        if is_open and not read_keys(self.api_keys, self.api_keys_file):
            raise ValueError(
                f"`host` is {self.host!r}, which others can reach, and there are no API keys; give "
                "`api_keys_file`, or `allow_anonymous` where something else controls access."
            )
        return self

    @property
    def served_name(self) -> str:
        """The model's name for clients."""
        return self.model_name or self.model.rstrip("/").rpartition("/")[2]

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names that a request's Host may have; empty for any."""
        return self.allowed_hosts or (_LOOPBACK_NAMES if self.is_loopback else ())

    @property
    def database_url(self) -> str:
        """The database, SQLite in `data_dir` where none is given."""
        return self.database or f"sqlite:///{self.data_dir.absolute() / 'jobs.sqlite3'}"
