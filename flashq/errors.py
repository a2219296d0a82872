"""The catalogue of errors: one class for each code, and what a caller needs to know of it.

Owns codes, texts, HTTP and gRPC statuses and whether a repeat can help. Servers raise these to
answer a request with an error; the client raises the same classes from a reply. Texts that
existing clients match on are kept word for word.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final


class FlashQError(Exception):
    """Base of everything that flashq raises on purpose.

    Args:
        text: a ready text; without it the class's template is filled with `values`.
        values: what the template names.
    """

    code: ClassVar[str] = "error"
    template: ClassVar[str] = "{detail}"
    http_status: ClassVar[int] = 400
    grpc_status: ClassVar[str] = "INVALID_ARGUMENT"
    retryable: ClassVar[bool] = False
    """Whether the same request, sent again a little later, can succeed. True promises that
    nothing happened."""

    def __init__(self, text: str | None = None, **values: Any) -> None:
        self.text: Final = self.template.format(**values) if text is None else text
        super().__init__(self.text)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.text,))


# --- the request itself


class InvalidRequest(FlashQError):
    """The body does not fit its command: unknown word, missing field, wrong type, out of range."""

    code = "invalid"
    template = "Invalid: {detail}"
    http_status = 422


class BadMessage(InvalidRequest):
    """The message is not flashq's: broken frames, header or encoding."""

    code = "bad_message"
    http_status = 400


class MessageTooLarge(FlashQError):
    code = "message_too_large"
    template = "Message too large"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class QueueNameEmpty(FlashQError):
    code = "queue_name_empty"
    template = "Queue name cannot be empty"


class QueueNameTooLong(FlashQError):
    code = "queue_name_too_long"
    template = "Queue name too long (max 256 chars)"


class QueueNameInvalid(FlashQError):
    code = "queue_name_invalid"
    template = "Queue name must contain only alphanumeric characters, underscores, hyphens, or dots"


class PayloadTooLarge(FlashQError):
    code = "payload_too_large"
    template = "Job data too large ({size} bytes, max {limit} bytes)"
    http_status = 413


class BatchTooLarge(FlashQError):
    code = "batch_too_large"
    template = "Batch too large ({count} jobs, max {limit})"
    http_status = 413


class ReplyTooLarge(FlashQError):
    code = "reply_too_large"
    template = "Reply too large (max {limit} bytes of payload): ask for fewer jobs"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class FieldTooLarge(FlashQError):
    code = "field_too_large"
    template = "Field {field} too large ({size}, max {limit})"


class StateInvalid(FlashQError):
    code = "state_invalid"
    template = "Invalid state. Use: waiting, delayed, completed, failed, cancelled"


class FlowEmpty(FlashQError):
    code = "flow_empty"
    template = "Flow must have at least one child"


class LevelInvalid(FlashQError):
    code = "level_invalid"
    template = "Jobs of level memory cannot join flows or dependencies"


# --- the request as HTTP has it


class ParameterInvalid(InvalidRequest):
    """A part of the path or of the query is not what it has to be."""

    code = "parameter_invalid"
    http_status = 400


class ContentTypeInvalid(FlashQError):
    code = "content_type_invalid"
    template = "Expected request with `Content-Type: application/json`"
    http_status = 415


class PathUnknown(FlashQError):
    code = "path_unknown"
    template = "Path not found: {path}"
    http_status = 404
    grpc_status = "UNIMPLEMENTED"


class MethodNotAllowed(FlashQError):
    code = "method_not_allowed"
    template = "Method {method} not allowed for {path}"
    http_status = 405
    grpc_status = "UNIMPLEMENTED"


class NotSupported(FlashQError):
    """Older servers did it; this one does not, or not this way. The text says what to do."""

    code = "not_supported"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class Internal(FlashQError):
    """A mistake of the program that answers, not of the asker."""

    code = "internal"
    template = "internal error"
    http_status = 500
    grpc_status = "INTERNAL"


# --- who asks


class AuthenticationRequired(FlashQError):
    code = "authentication_required"
    template = "Authentication required"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class TokenInvalid(FlashQError):
    code = "token_invalid"
    template = "Invalid token"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class TooManyAttempts(FlashQError):
    """Wrong tokens came from this address; a repeat is answered once some time has passed."""

    code = "too_many_attempts"
    template = "Too many attempts with a wrong token; try again in {seconds} s"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True


class NotAllowed(FlashQError):
    code = "not_allowed"
    template = "Not allowed: {detail}"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class SessionExpired(FlashQError):
    """The session's answers are forgotten: whether an earlier copy of this request was carried out
    is not known. A first copy was not."""

    code = "session_expired"
    template = "session expired"
    http_status = 409
    grpc_status = "ABORTED"


# --- what it asks about


class Debounced(FlashQError):
    code = "debounced"
    template = "Debounced: job with id '{debounce_id}' was pushed recently"
    http_status = 409
    grpc_status = "ALREADY_EXISTS"


class DuplicateJob(FlashQError):
    code = "duplicate"
    template = "Duplicate job with key: {key}"
    http_status = 409
    grpc_status = "ALREADY_EXISTS"


class JobNotFound(FlashQError):
    code = "job_not_found"
    template = "Job {id} not found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class JobNotActive(JobNotFound):
    """The command needs a job that is being processed, and this one is not."""

    code = "job_not_active"
    template = "Job {id} not in processing"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class WrongState(FlashQError):
    """The job exists but is in a state that the command cannot be applied to."""

    code = "wrong_state"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class LeaseLost(FlashQError):
    """The token names a delivery that is no longer current: the job went back or to somebody
    else."""

    code = "lease_lost"
    template = "lease lost: job {id} is no longer yours"
    http_status = 409
    grpc_status = "ABORTED"


class ParentNotFound(FlashQError):
    code = "parent_not_found"
    template = "Parent job {id} not found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class UnknownDependency(FlashQError):
    code = "unknown_dependency"
    template = "unknown dependency: job {id} never existed"
    http_status = 404
    grpc_status = "NOT_FOUND"


class DependencyForgotten(FlashQError):
    code = "dependency_forgotten"
    template = "dependency no longer known: job {id} ended too long ago"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class JobFailed(FlashQError):
    """The job became a dead letter; the text says why, where somebody gave a reason."""

    code = "job_failed"
    template = "Job failed"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class JobCancelled(FlashQError):
    """Somebody cancelled the job; the text has the reason, where one was given."""

    code = "job_cancelled"
    template = "Job cancelled"
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"


class WaitJobNotFound(FlashQError):
    code = "wait_job_not_found"
    template = "Job not found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class ResultNotKept(FlashQError):
    """The job has completed, and its result was among the oldest when the shard had too many."""

    code = "result_not_kept"
    template = "result no longer kept: job {id} has completed"
    http_status = 410
    grpc_status = "NOT_FOUND"


class WaitTimeout(FlashQError):
    code = "wait_timeout"
    template = "Timeout waiting for job {id} after {timeout}ms"
    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"


class NoJobInTime(FlashQError):
    """A pull of the older protocol that named no time-out, and for which no job came in time. Its
    clients take an empty success for a job."""

    code = "no_job_in_time"
    template = "Timeout waiting for a job: none came within {timeout} ms"
    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"


class CronNotFound(FlashQError):
    code = "cron_not_found"
    template = "Cron job not found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class CronInvalid(FlashQError):
    code = "cron_invalid"


class WebhookNotFound(FlashQError):
    code = "webhook_not_found"
    template = "Webhook not found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class WebhookInvalid(FlashQError):
    code = "webhook_invalid"
    http_status = 422


class WebhookLeaseLost(FlashQError):
    """Whoever reports a delivery does not hold the webhook any more."""

    code = "webhook_lease_lost"
    template = "lease lost: the webhook is no longer yours"
    http_status = 409
    grpc_status = "ABORTED"


# --- the server's condition


class Unhealthy(FlashQError):
    """Some part of the server does not answer; the text names it."""

    code = "unhealthy"
    template = "unhealthy: {detail}"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class Busy(FlashQError):
    """A bound is reached; nothing happened, and a repeat can succeed."""

    code = "busy"
    template = "busy: {detail}"
    http_status = 503
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True


class LimitReached(FlashQError):
    """A bound that only somebody's removing of jobs can lift."""

    code = "limit_reached"
    template = "limit reached: {detail}"
    http_status = 507
    grpc_status = "RESOURCE_EXHAUSTED"


class Starting(FlashQError):
    code = "starting"
    template = "starting: shard {shard} is recovering"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True


class ShuttingDown(FlashQError):
    code = "shutting_down"
    template = "shutting down"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True


class ShardUnavailable(FlashQError):
    """A shard that has to answer is away. Nothing is known of the request's outcome."""

    code = "shard_unavailable"
    template = "shard {shard} does not answer"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class StorageUnavailable(FlashQError):
    code = "storage_unavailable"
    template = "storage unavailable: {detail}"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True


class StorageRefused(FlashQError):
    """Storage is there, but does not take this for what is in it, however often it is tried."""

    code = "storage_refused"
    template = "storage refuses this change: {detail}"
    http_status = 422


class StorageDamaged(FlashQError):
    """What is stored contradicts itself; the text names the place."""

    code = "storage_damaged"
    template = "storage damaged: {detail}"
    http_status = 500
    grpc_status = "DATA_LOSS"


class OutcomeUnknown(FlashQError):
    """The request may or may not have been carried out."""

    code = "outcome_unknown"
    template = "outcome unknown: {detail}"
    http_status = 503
    grpc_status = "UNKNOWN"


# --- the client's own


class ConnectionClosed(FlashQError):
    code = "connection_closed"
    template = "Connection closed"


class RequestTimeout(OutcomeUnknown):
    """No answer within the time-out; the request may have been carried out."""

    code = "request_timeout"
    template = "no answer within {timeout} ms, so its outcome is unknown: {detail}"


class CallNotAllowed(FlashQError):
    """A call of a client where it would have to wait for itself, or in another event loop than the
    client's. Nothing happened."""

    code = "call_not_allowed"
    template = "this call would wait for itself: {detail}"


class ConfigError(FlashQError):
    """A setting, a flag or an environment that this program cannot start with."""

    code = "config"


def _catalogue(base: type[FlashQError]) -> dict[str, type[FlashQError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        found |= _catalogue(child)
    return found


CATALOGUE: Final = _catalogue(FlashQError)
"""Every error by its code."""


def error_from(code: str, text: str) -> FlashQError:
    """Return the exception for an error reply; an unknown code gives the base class."""
    return CATALOGUE.get(code, FlashQError)(text)
