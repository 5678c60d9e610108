"""From a claimed generation to the request that its adapter takes, by the catalog in force."""

from __future__ import annotations

from pydantic import ValidationError

from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import Adapter, InputImage, SubmitRequest
from libs.common.catalog import CatalogHolder, Provider
from libs.common.database.records_dispatch import ClaimedGeneration
from libs.common.errors import ErrorCode, GenerationError, InvalidRequest
from libs.common.ids import new_id
from libs.common.preprocessing.plans import plan
from libs.common.validation.common import violations
from services.dispatcher.outcomes import Job


class Preparation:
    """Prepares submits.

    Args:
        catalog, accounts: what is known of the models, and who speaks to their providers.
        public_url: where providers reach the gateway's HTTP port; None: they are asked for no webhooks.
    """

    def __init__(self, catalog: CatalogHolder, accounts: Accounts, *, public_url: str | None) -> None:
        self._catalog = catalog
        self._accounts = accounts
        self._public_url = public_url

    def prepare(self, claimed: ClaimedGeneration) -> tuple[Job, SubmitRequest]:
        """The job and the request. GenerationError where the catalog or its accounts do not let it be submitted."""
        catalog = self._catalog.current
        model = catalog.model(claimed.model_identifier)
        if model.provider != claimed.provider_id:
            raise GenerationError(
                ErrorCode.INVALID_REQUEST,
                f"The catalog has moved {model.identifier} from {claimed.provider_id} to {model.provider} since this "
                "was accepted; send it again.",
            )
        provider = catalog.provider_of(model)
        adapter = self._accounts.adapter(provider)
        try:
            parameters = adapter.parameters.model_validate(claimed.parameters)
        except ValidationError as error:
            raise InvalidRequest(violations(error, prefix="parameters"), ErrorCode.INVALID_PARAMETERS) from error
        submission_id = claimed.open_submission_id or new_id("sub")
        webhook_url, webhook_secret = self._webhook(provider, adapter)
        request = SubmitRequest(
            # A vendor that deduplicates by our id must see the same one at each attempt.
            client_id=claimed.id if adapter.idempotent_submit else submission_id,
            upstream_model=model.upstream_model,
            prompt=claimed.prompt,
            input_images=tuple(InputImage(url) for url in claimed.input_images),
            number_of_outputs=claimed.number_of_outputs,
            parameters=parameters,
            media_type=model.media_type,
            user_id=claimed.user_id,
            webhook_url=webhook_url,
            webhook_secret=webhook_secret,
        )
        needs = catalog.image_needs(model, parameters)
        images = None if needs is None else plan(needs, claimed.preprocess, catalog.presets)
        return Job(claimed, model, provider, adapter, claimed.attempts, submission_id, images=images), request

    def adapter_of(self, job: Job) -> Adapter:
        """The adapter for a job's account now: a new catalog has another one made, and the earlier one closed.

        Raises GenerationError AUTHENTICATION_FAILED where the account's credentials are not set.
        """
        provider = self._catalog.current.providers.get(job.provider.id)
        return job.adapter if provider is None else self._accounts.adapter(provider)

    def _webhook(self, provider: Provider, adapter: Adapter) -> tuple[str | None, str | None]:
        """Where the vendor is to report the end, and what it signs that with. Without a URL it is not asked to."""
        if provider.webhooks is None or self._public_url is None:
            return None, None
        secret = provider.webhook_secret()
        if adapter.signs_webhooks and secret is None and provider.webhooks.keys_url is None:
            # They could not be believed; without them the task is polled at its own pace.
            return None, None
        return f"{self._public_url.rstrip('/')}/api/webhooks/{provider.id}", secret
