"""Everything that can go wrong with a request, as one tree.

FarthingError                    http  code                          who is at fault, what follows
├── RequestError                                                     the caller; never retried
│   ├── BadRequest               400   invalid_request
│   ├── ContextExceeded          400   context_length_exceeded       a tier with a larger context may still answer
│   ├── Unsupported              400   unsupported_parameter         another tier may support it
│   ├── ContentRefused           400   content_filter                the provider refused the content itself
│   ├── Unauthenticated          401   invalid_api_key
│   ├── Forbidden                403   permission_denied
│   ├── ModelNotFound            404   model_not_found
│   ├── NotCached                404   not_cached                    the caller allowed the cache only
│   ├── TooSlow                  408   request_timeout               its body did not come in time
│   ├── TooLarge                 413   request_too_large
│   ├── RateLimited              429   rate_limit_exceeded
│   └── BudgetExceeded           429   insufficient_quota
├── UpstreamError                                                    a backend; another backend or tier may do
│   ├── Overloaded               503   overloaded                    its queue or our quota there is full
│   ├── Unavailable              502   upstream_unavailable          no connection, 5xx
│   │   └── NotUp                503   upstream_unavailable          nobody there to ask yet, or just now
│   ├── UpstreamTimeout          504   upstream_timeout
│   ├── ProtocolViolation        502   upstream_protocol             it answered what cannot be read
│   ├── KeyRejected              502   upstream_auth                 not retried: the provider cools down
│   ├── CreditExhausted          502   upstream_credit               not retried: the provider cools down
│   └── StreamCut                502   upstream_stream_cut           after the first token: the stream ends here
├── DeadlineExceeded             504   deadline_exceeded
└── StartError                                                       raised while starting, never over HTTP
    ├── ConfigError
    ├── UnknownPrice
    └── DoesNotFit

A provider's own errors are translated where its answers are read (`models/upstream`), by status first. The gateway
turns the tree into HTTP in one place (`serving/wire/errors.py`). Messages tell the reader what to do.
"""

from __future__ import annotations


class FarthingError(Exception):
    """The root: catch this, nothing broader."""

    http_status = 500
    type = "server_error"
    code = "internal_error"
    retryable = False  # the same backend may answer if asked again
    moves_on = False  # another backend or tier may answer
    cools_down = False  # the backend will not recover by itself soon: stop asking it for a while

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class RequestError(FarthingError):
    http_status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class BadRequest(RequestError):
    pass


class ContextExceeded(RequestError):
    code = "context_length_exceeded"
    moves_on = True


class Unsupported(RequestError):
    code = "unsupported_parameter"
    moves_on = True


class ContentRefused(RequestError):
    code = "content_filter"


class Unauthenticated(RequestError):
    http_status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(RequestError):
    http_status = 403
    type = "permission_error"
    code = "permission_denied"


class ModelNotFound(RequestError):
    http_status = 404
    code = "model_not_found"


class NotCached(RequestError):
    http_status = 404
    code = "not_cached"


class TooSlow(RequestError):
    http_status = 408
    code = "request_timeout"


class TooLarge(RequestError):
    http_status = 413
    code = "request_too_large"


class RateLimited(RequestError):
    http_status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class BudgetExceeded(RequestError):
    http_status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class UpstreamError(FarthingError):
    http_status = 502
    type = "upstream_error"
    code = "upstream_unavailable"
    moves_on = True


class Overloaded(UpstreamError):
    http_status = 503
    code = "overloaded"
    retryable = True


class WouldBeLate(Overloaded):
    """Nobody was asked: at its present load the answer would come after the deadline."""

    code = "late"


class Unavailable(UpstreamError):
    retryable = True


class NotUp(Unavailable):
    """Nobody was asked: the engine is starting, or all are left alone for a while after failures."""

    http_status = 503


class UpstreamTimeout(UpstreamError):
    http_status = 504
    code = "upstream_timeout"


class ProtocolViolation(UpstreamError):
    code = "upstream_protocol"
    retryable = True


class KeyRejected(UpstreamError):
    code = "upstream_auth"
    cools_down = True


class CreditExhausted(UpstreamError):
    code = "upstream_credit"
    cools_down = True


class StreamCut(UpstreamError):
    code = "upstream_stream_cut"
    moves_on = False


class DeadlineExceeded(FarthingError):
    http_status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class StartError(FarthingError):
    code = "start_error"


class ConfigError(StartError):
    pass


class UnknownPrice(StartError):
    pass


class DoesNotFit(StartError):
    pass
