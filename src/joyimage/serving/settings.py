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
        transformer: Weight file of the transformer, in place of that of `model`; without `model` the configs
            are those of the published model.
        text_encoder: Weight file of the text encoder, in place of that of `model`.
        vae: Weight file of the VAE, in place of that of `model`.
        quantize: "int8", "fp8" or "nf4" quantizes large layers while loading, "none" decodes quantized files; the
            files' own format if None.
        offload: Memory plan: "none", "model", "block" or "disk"; the fastest that fits the free memory if None.
        model_name: What clients call it; the end of `model` if None.
        model_aliases: Further names that clients may use for it, such as "gpt-image-1".
        loras: Adapters that clients may ask for: name and file.
        device: Such as "cuda" or "cpu"; what is there if None.
        dtype: "bfloat16", "float16", "float32" or "auto" (measured on a CPU); what suits the device if None.
        base_size: Side of the square size; the checkpoint's own if None.
        gpus: Devices that share each edit, 1, 2, 4 or 8; several replicas with them need Ray.
        replicas: Pipelines; more than one share the devices of a kind in turn.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        allowed_hosts: Names that a request's Host may have; on loopback only loopback's, else any if empty.
        trusted_proxies: Addresses of proxies whose X-Forwarded-For is trusted.
        cors_origins: Web pages of these origins may call; none by default.
        public_url: How clients reach the server, for addresses of results; as the request came if None.
        data_dir: Folder of records, uploads and results.
        database: Such as "postgresql+psycopg://user@host/name"; a SQLite file in `data_dir` if None.
        api_keys: Keys separated by commas, each "name:key" or a key alone.
        api_keys_file: A file with one of these a line.
        allow_anonymous: Whether to listen on other addresses than loopback without any key.
        queue_size: Most queued jobs.
        client_jobs: Most queued or running jobs of one client.
        session_bytes: Most bytes that a pipeline caches of images it has read, for their next edit.
        max_batch: Most jobs of equal settings that run together.
        batch_pixels: Only outputs up to this many pixels in all run together.
        job_timeout_s: Longest run of a job.
        queue_timeout_s: Longest wait of a job.
        upload_timeout_s: Longest time that a request's body may take to arrive.
        shutdown_grace_s: How long a running job may continue when the server is asked to stop.
        hang_timeout_s: How long a device call may continue after a job's time limit before the server ends.
        write_timeout_s: Longest time that a client may take to read a part of an answer.
        header_timeout_s: Longest time from a connection to the end of a request's headers.
        max_connections: Most open connections.
        client_streams: Most streams of events of one client.
        client_requests_per_minute: Most requests of one client in a minute; None for no limit.
        client_bytes: Most bytes that images of one client take on disk; None for no limit.
        stored_bytes: Most bytes that all images take on disk; None for no limit.
        client_device_s: Most seconds that one client has a device within an hour; None for no limit.
        max_pending_uploads: Most requests whose images are parsed and decoded, or wait for it.
        max_pending_bytes: Most bytes of requests in memory at a time; each client gets half.
        max_body_bytes: Largest request.
        max_image_bytes: Largest image file.
        max_image_pixels: Most pixels of an image, checked before it is decoded.
        max_decode_s: Longest time for decoding an image.
        max_output_pixels: Most pixels of one output.
        max_images: Most images of a request.
        max_outputs: Most outputs of a request.
        max_steps: Most steps of an edit.
        max_new_tokens: Most tokens of a description.
        max_prompt_chars: Longest prompt.
        keep_s: How long records and results of finished jobs are kept.
        image_urls: Whether images are fetched from addresses that a request names.
        url_timeout_s: Longest time that fetching an image may take.
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
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
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
