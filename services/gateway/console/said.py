"""What is said after a button was pressed: one of these, so that nothing of an address is ever shown."""

from __future__ import annotations

from services.gateway.console.translations import marked

SAID = {
    "cancelled": marked("It was asked to be cancelled."),
    "run_again": marked("It runs again: this is the new generation."),
    "resolved_submission": marked("The submission is resolved."),
    "resolved_many": marked("The submissions are resolved."),
    "resolved_some": marked("Only some of the submissions are resolved. Repeat the request to resolve the rest."),
    "continued": marked("The submission is resolved: this generation continues it."),
    "batch_cancelled": marked("The batch was asked to be cancelled."),
    "batch_resumed": marked("The batch goes on with what had not succeeded."),
    "error_resolved": marked("The error is marked as resolved. It opens again if it comes back."),
    "acknowledged": marked("The alert is acknowledged."),
    "silenced": marked("Alerts of this kind keep quiet until then."),
    "silence_ended": marked("The silence has ended."),
    "tested": marked("A test was sent; below is what became of it."),
    "experiment_made": marked("The experiment is planned. Start it when you are ready."),
    "experiment_started": marked("The experiment runs."),
    "experiment_paused": marked("The experiment is paused."),
    "experiment_completed": marked("The experiment is completed."),
    "rolled_out": marked("All traffic of the experiment now goes to this variant."),
    "quota_changed": marked("The bounds of the key are changed."),
    "revoked": marked("The key is revoked. Its generations go on."),
    "signed_out": marked("You are signed out."),
}
