"""The catalog: which providers and models there are, and what each costs, takes and may.

One YAML file is the one place for prices, limits, defaults and model names. It is checked as a whole at the start and
at each reload; every fault is listed at once with its path, and a catalog with a fault is never used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, StringConstraints, ValidationError
from yarl import URL

from libs.common.adapters.base import Adapter
from libs.common.adapters.registry import adapters
from libs.common.database.records import MediaType, Strategy
from libs.common.database.records_dispatch import NewTask
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.hosts import host_of, is_listed
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.needs import ImageNeeds
from libs.common.imaging.presets import PRESETS
from libs.common.validation.common import Parameters, violations
from libs.common.watched import FileFault, Watched, text_of, yaml_of

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
Host = Annotated[str, StringConstraints(pattern=r"^\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]


class CatalogFault(FileFault):
    """The catalog cannot be used."""

    what = "catalog"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Entry):
    """What a provider account stands. None: no bound."""

    concurrent_tasks: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Tasks that the account may have at once, all dispatchers together.",
    )
    concurrent_submits: int = Field(
        default=50, ge=1, le=10_000, description="Submits in progress at once in one dispatcher."
    )
    concurrent_checks: int = Field(default=20, ge=1, le=10_000, description="Polls in progress at once in one poller.")
    requests_per_second: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="Submits per second of all dispatchers together; the narrower of this limit and "
        "`limits.requests_per_minute` applies. The submits of one second, and at least one, may leave at once.",
    )
    requests_per_minute: float | None = Field(
        default=None, gt=0, le=600_000, description="Submits per minute of all dispatchers together."
    )
    daily_spend_usd: float | None = Field(
        default=None,
        ge=0,
        description="What may be submitted in a day (UTC) by the catalog's prices, all dispatchers together, in "
        "US dollars. What the provider did not take, or reports as failed or cancelled on the same day, "
        "is subtracted again.",
    )
    submit_timeout_seconds: float = Field(default=60.0, gt=0, le=3_600, description="Time limit of a submit.")
    check_timeout_seconds: float = Field(default=20.0, gt=0, le=600, description="Time limit of a poll.")

    @property
    def rate_per_second(self) -> float | None:
        """How many submits may leave in a second; None: no bound."""
        by_minute = None if self.requests_per_minute is None else self.requests_per_minute / 60
        bounds = [bound for bound in (self.requests_per_second, by_minute) if bound is not None]
        return min(bounds, default=None)


class Retry(_Entry):
    """How a submit is repeated that the provider did not take: the first wait doubles, with ±25 % of chance."""

    attempts: int = Field(
        default=3,
        ge=1,
        le=20,
        description="How often a submit is sent at most; also how often a cancel or the fetching of a result is "
        "tried in a row.",
    )
    first_wait_seconds: float = Field(
        default=1.0,
        gt=0,
        le=600,
        description="Wait before the second attempt. It doubles with each attempt, and varies by 25 % either way.",
    )
    longest_wait_seconds: float = Field(default=30.0, gt=0, le=3_600, description="Wait at which the doubling stops.")
    longest_retry_after_seconds: float = Field(
        default=600.0, ge=0, le=86_400, description="Longest Retry-After of a provider that is obeyed."
    )


class BreakerPolicy(_Entry):
    """When nothing more is sent to a provider account, because what was sent lately has failed by its fault."""

    failure_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of failed submits at which the circuit breaker opens, so that nothing more is sent. A "
        "failure is one by the provider's fault: no connection, no answer or 5xx. A refusal is an answer.",
    )
    minimum_calls: int = Field(default=10, ge=1, le=1_000_000, description="For fewer calls the breaker does not open.")
    window_seconds: float = Field(default=60.0, gt=0, le=86_400, description="After this time a call counts half.")
    open_seconds: float = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="How long the breaker stays open before one probe may pass. It doubles with each probe that fails.",
    )
    longest_open_seconds: float = Field(default=300.0, gt=0, le=86_400, description="Time at which the doubling stops.")


class WebhookPolicy(_Entry):
    """How a provider tells us that a task has ended, and how it is polled beside that."""

    secret: EnvironmentName | None = Field(
        default=None,
        description="Environment variable with the secret with which the vendor signs its webhooks; read by the "
        "dispatcher and the gateway.",
    )
    keys_url: HttpUrl | None = Field(
        default=None,
        description="Instead of a secret: where the vendor publishes its keys, as a JWKS document that is fetched "
        "once a day.",
    )
    poll_interval_seconds: float = Field(
        default=30.0,
        ge=0.1,
        le=3_600,
        description="How often a task is polled that the vendor also reports by a webhook.",
    )


class StoragePolicy(_Entry):
    """Where a provider's results come from and go to."""

    upload_to_s3: bool = Field(
        default=True,
        description="Whether outputs are fetched and stored. `false` hands the provider's URL to the client.",
    )
    s3_path_prefix: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
    ] = Field(
        default="generations", description="Outputs are stored at `<prefix>/yyyy/mm/dd/<generation id>/<n>.<ext>`."
    )
    result_hosts: tuple[Host, ...] = Field(
        default=(),
        description="Hosts from which outputs are fetched although their addresses are not public. A leading dot "
        "stands for all hosts below.",
    )
    result_seconds: float = Field(
        default=600.0,
        gt=0,
        description="How long the provider keeps a result. Until then, or until the task's deadline where that is "
        "later, an output that cannot be read or stored is tried again. Then the outputs that are stored "
        "are the result; without any the generation fails.",
    )


class Provider(_Entry):
    """A provider account."""

    id: str
    adapter: str = Field(description="Adapter that speaks the vendor's wire format, of those under Vendors.")
    base_url: HttpUrl = Field(description="URL to which the adapter's paths are appended.")
    api_hosts: tuple[Host, ...] = Field(
        default=(),
        description="Further hosts to which the credentials may be sent when a reply names them; `.bfl.ai` stands "
        "for all hosts below.",
    )
    credentials: dict[str, EnvironmentName] = Field(
        default={},
        description="By the adapter's name for each credential, the environment variable that holds it; read by the "
        "dispatcher and the poller. The adapter says which are required.",
    )
    limits: Limits = Limits()
    retry: Retry = Retry()
    breaker: BreakerPolicy = BreakerPolicy()
    webhooks: WebhookPolicy | None = None
    storage: StoragePolicy = StoragePolicy()
    preprocess: dict[str, Any] | Literal[False] = Field(
        default={},
        description="What becomes of input images in addition to what the adapter says of its vendor: fields of a "
        "config in snake_case, within the vendor's bounds, for instance `{compression: {quality: 80}}`. "
        "`false`: images are sent as they come.",
    )

    def owns(self, url: str) -> bool:
        """Whether a URL is http(s) and on one of the provider's own hosts."""
        try:
            parsed = URL(url)
        except ValueError:
            return False
        hosts = (*self.api_hosts, self.base_url.host or "")
        return parsed.scheme in {"http", "https"} and is_listed(host_of(parsed), hosts) and "\x00" not in url

    def secrets(self, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The credentials themselves. GenerationError AUTHENTICATION_FAILED names the variables that are not set."""
        missing = sorted(name for name in self.credentials.values() if not environment.get(name))
        if missing:
            raise GenerationError(
                ErrorCode.AUTHENTICATION_FAILED,
                f"Provider {self.id} has no credentials: set {', '.join(missing)} where the dispatcher and poller run.",
                {"environment": missing},
            )
        return {key: environment[name] for key, name in self.credentials.items()}

    def webhook_secret(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """What the vendor signs its webhooks with; None where none is named or set."""
        named = self.webhooks.secret if self.webhooks else None
        return environment.get(named) or None if named else None


class Polling(_Entry):
    """How a model's tasks are polled."""

    strategy: Strategy = Field(
        default="exponential", description="`exponential` (1.5 times the wait before, at most five minutes) or `fixed`."
    )
    interval_seconds: float = Field(default=2.0, ge=0.1, le=300, description="The first wait.")
    jitter: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="The share by which waits vary either way, so that tasks that were submitted together drift apart.",
    )
    max_duration_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="After this time the task counts as lost. If not set, 600 for images and 1,200 for videos.",
    )


class Model(_Entry):
    """A model that can be asked for."""

    identifier: str
    provider: str = Field(description="Provider account that serves the model.")
    upstream_model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/:-]{1,200}$")] = Field(
        description="The vendor's name for the model."
    )
    media_type: MediaType = Field(description="What the model generates.")
    description: str = Field(default="", description="Description for people.")
    price_per_output_usd: float | None = Field(
        default=None, ge=0, description="Price of one output, in US dollars. Exactly one of the two prices is required."
    )
    price_per_second_usd: float | None = Field(
        default=None,
        ge=0,
        description="Price of one second of an output, in US dollars; `parameters.duration` says how many seconds. "
        "Exactly one of the two prices is required.",
    )
    max_outputs: int = Field(default=1, ge=1, le=10, description="Outputs of one request.")
    max_input_images: int = Field(default=0, ge=0, le=20, description="Input images of one request.")
    polling: Polling = Polling()
    defaults: dict[str, Any] = Field(
        default={}, description="Defaults of the model's `parameters`, in place of the adapter's."
    )
    fallbacks: tuple[Name, ...] = Field(
        default=(),
        max_length=10,
        description="Models that are tried in order where this one's provider cannot take a request. A request's own "
        "`fallbackModels` take their place.",
    )

    @property
    def max_duration_seconds(self) -> int:
        """How long the provider may take before the task counts as lost."""
        by_media: dict[MediaType, int] = {"image": 600, "video": 1_200}
        return self.polling.max_duration_seconds or by_media[self.media_type]

    def task(self, task_id: str, adapter_name: str, check_url: str | None) -> NewTask:
        """A provider's task of this model, followed as the catalog says."""
        return NewTask(
            task_id=task_id,
            adapter_name=adapter_name,
            check_url=check_url,
            strategy=self.polling.strategy,
            poll_interval_ms=round(self.polling.interval_seconds * 1_000),
            max_duration_seconds=self.max_duration_seconds,
        )

    def cost_usd(self, outputs: int, parameters: Mapping[str, Any]) -> float:
        """The price of `outputs` outputs by the catalog, in US dollars."""
        if self.price_per_second_usd is not None:
            return self.price_per_second_usd * float(parameters.get("duration", 0)) * outputs
        return (self.price_per_output_usd or 0.0) * outputs


class _File(_Entry):
    providers: dict[Name, Any]
    models: dict[Name, Any]


class Catalog:
    """Providers and models that fit together. Made by `parse` and `load` alone."""

    def __init__(self, providers: dict[str, Provider], models: dict[str, Model]) -> None:
        self.providers = providers
        self.models = models

    def model(self, identifier: str) -> Model:
        """The model of that name. NotFound where there is none."""
        found = self.models.get(identifier)
        if found is None:
            raise NotFound(
                "model_identifier", f"There is no model {identifier[:100]!r}; ListModels names those there are."
            )
        return found

    def provider_of(self, model: Model) -> Provider:
        """The provider account behind a model."""
        return self.providers[model.provider]

    def adapter_of(self, model: Model) -> type[Adapter]:
        """The adapter that speaks to a model's provider."""
        return adapters()[self.provider_of(model).adapter]

    def parameter_names(self, model: Model) -> set[str]:
        """The names that the model's parameters may be given by."""
        fields = self.adapter_of(model).parameters.model_fields.items()
        return {name for key, field in fields for name in (key, field.alias) if name}

    def image_needs(self, model: Model, parameters: Parameters) -> ImageNeeds | None:
        """What input images must become for a request of a model; None: they go as they come."""
        provider = self.provider_of(model)
        return _needs(provider, self.adapter_of(model).image_needs(parameters))

    def takes_data_urls(self, model: Model, parameters: Parameters) -> bool:
        """Whether input images of a request may be data URLs: all may that are prepared."""
        return self.image_needs(model, parameters) is not None or self.adapter_of(model).takes_data_urls

    @cached_property
    def presets(self) -> Mapping[str, PreprocessConfig]:
        """What may be asked for by name: our own configs, those made for a vendor, and by its id each provider's."""
        found: dict[str, PreprocessConfig] = {}
        for provider in self.providers.values():
            needs = _needs(provider, adapters()[provider.adapter].preprocess)
            if needs is not None:
                found[provider.id] = needs.held(needs.config)
        for kind in adapters().values():
            found |= kind.presets
        return found | dict(PRESETS)

    def parameters(self, model: Model, given: Mapping[str, Any]) -> Parameters:
        """The model's parameters, defaults applied. pydantic's ValidationError where `given` breaks its schema."""
        return self.adapter_of(model).parameters.model_validate({**model.defaults, **given})


def _checked(kind: type[Provider | Model], path: str, name: str, entry: object, faults: list[str]) -> Any:
    key = "id" if kind is Provider else "identifier"
    if kind is Model and isinstance(entry, dict) and "when_uncertain" in entry:
        # A second payment needs the caller's consent: it is never a default.
        faults.append(f"{path}.{name}.when_uncertain: is not set here: a request that accepts a second payment sets it")
        entry = {field: value for field, value in entry.items() if field != "when_uncertain"}
    content = {key: name, **entry} if isinstance(entry, dict) else entry
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        known = [field for field in kind.model_fields if field != key]
        found = violations(error, prefix=f"{path}.{name}", known=known)
        faults += [f"{violation.field}: {violation.description}" for violation in found]
        return None


def _provider_faults(provider: Provider) -> list[str]:
    path = f"providers.{provider.id}"
    found = adapters().get(provider.adapter)
    if found is None:
        return [f"{path}.adapter: there is no adapter {provider.adapter!r}; there are {', '.join(sorted(adapters()))}"]
    wanted, named = set(found.credentials), set(provider.credentials)
    missing = [f"{path}.credentials.{name}: adapter {found.name} needs it" for name in sorted(wanted - named)]
    missing += [*_webhook_faults(provider, found), *_preprocess_faults(provider, found)]
    return missing + [
        f"{path}.credentials.{name}: adapter {found.name} knows none such" for name in sorted(named - wanted)
    ]


def _needs(provider: Provider, needs: ImageNeeds | None) -> ImageNeeds | None:
    if needs is None or provider.preprocess is False:
        return None
    return needs.changed(provider.preprocess)


def _preprocess_faults(provider: Provider, kind: type[Adapter]) -> list[str]:
    path, changes = f"providers.{provider.id}.preprocess", provider.preprocess
    if not changes:
        return []
    if kind.preprocess is None:
        return [f"{path}: adapter {kind.name} hands images over as they come"]
    try:
        needs = kind.preprocess.changed(changes)
    except ValidationError as error:
        found = violations(error, prefix=path, known=PreprocessConfig.model_fields)
        return [f"{violation.field}: {violation.description}" for violation in found]
    output = needs.config.output.kind
    if output == "base64" and not kind.takes_data_urls:
        return [f"{path}.output.kind: adapter {kind.name} takes http(s) URLs only"]
    if (output == "buffer") != kind.needs_image_bytes:
        return [f"{path}.output.kind: adapter {kind.name} takes {'files' if kind.needs_image_bytes else 'no files'}"]
    bounded = {name: value for name, value in changes.items() if name != "output"}
    return [f"{path}.{excess.field}: {excess.why}" for excess in needs.excesses(bounded)]


def _webhook_faults(provider: Provider, kind: type[Adapter]) -> list[str]:
    path, policy = f"providers.{provider.id}.webhooks", provider.webhooks
    if policy is None:
        return []
    if not kind.sends_webhooks:
        return [f"{path}: adapter {kind.name} knows no webhooks"]
    if kind.signs_webhooks and (policy.secret is None) == (policy.keys_url is None):
        return [f"{path}: exactly one of secret and keys_url is needed"]
    return []


def _fallback_faults(model: Model, models: Mapping[str, Model], declared: set[str]) -> list[str]:
    path, faults = f"models.{model.identifier}.fallbacks", []
    for name in model.fallbacks:
        if name not in declared:
            faults.append(f"{path}: there is no model {name!r}")
        elif name in models and models[name].media_type != model.media_type:
            faults.append(f"{path}: {name} makes another kind of media")
        elif name == model.identifier:
            faults.append(f"{path}: a model is no fallback of its own")
    return faults


def _model_faults(model: Model, declared: set[str], catalog: Catalog) -> list[str]:
    path = f"models.{model.identifier}"
    faults = []
    if (model.price_per_output_usd is None) == (model.price_per_second_usd is None):
        faults.append(f"{path}: exactly one of price_per_output_usd and price_per_second_usd is needed")
    if model.provider not in declared:
        faults.append(
            f"{path}.provider: there is no provider {model.provider!r}; there are {', '.join(sorted(declared))}"
        )
    elif model.provider in catalog.providers and catalog.providers[model.provider].adapter in adapters():
        try:
            catalog.parameters(model, {})
        except ValidationError as error:
            known = catalog.adapter_of(model).parameters.model_fields
            found = violations(error, prefix=f"{path}.defaults", known=known)
            faults += [f"{violation.field}: {violation.description}" for violation in found]
    return faults


def parse(text: str) -> Catalog:
    """The catalog that a YAML text holds. CatalogFault with every fault where it holds none."""
    content = yaml_of(text, CatalogFault)
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        found = violations(error, known=_File.model_fields)
        raise CatalogFault(
            [f"{violation.field or 'the file'}: {violation.description}" for violation in found]
        ) from error
    faults: list[str] = []
    providers = {name: _checked(Provider, "providers", name, entry, faults) for name, entry in file.providers.items()}
    models = {name: _checked(Model, "models", name, entry, faults) for name, entry in file.models.items()}
    catalog = Catalog(
        {name: provider for name, provider in providers.items() if provider},
        {name: model for name, model in models.items() if model},
    )
    for provider in catalog.providers.values():
        faults += _provider_faults(provider)
    for model in catalog.models.values():
        faults += _model_faults(model, set(file.providers), catalog)
        faults += _fallback_faults(model, catalog.models, set(file.models))
    if faults:
        raise CatalogFault(faults)
    return catalog


def load(path: Path) -> Catalog:
    """The catalog in a file. CatalogFault where it cannot be read or holds a fault."""
    return parse(text_of(path, CatalogFault))


class CatalogHolder(Watched[Catalog]):
    """The catalog in force."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, load)
