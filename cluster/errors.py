"""What can go wrong between this machine, the provider and a box, as one branch of the project's error tree.

ClusterError
├── ProviderError            the provider answered no, or not at all
│   ├── BadKey               401, 403: nothing works until the key is right
│   ├── NoCredit             the account is empty
│   ├── SearchQuota          the daily quota of searches; back at midnight UTC
│   ├── TooFast              429: the call was not executed, so any call may be repeated after a while
│   ├── OfferGone            somebody else has it, or the host took it back: take the next
│   ├── BidTooLow            refused, and yet a stopped instance exists that bills its disk: destroy it
│   ├── Refused              another 4xx; our request is wrong
│   └── ProviderDown         5xx, no connection, no answer: the call may have been executed all the same
├── NothingWithin            no offer within the cap, or none that the model fits
├── BudgetReached            more would be spent a day than the file allows
├── BoxFailed                a box did not become a member; `blame` says whether its machine should be avoided
├── StillBilling             `down` could not prove that nothing is left
├── StateBroken              the state file cannot be read
├── NotWritten               this machine's disk does not take what must be on it
├── NeverUp                  there is no state file: `watch` has nothing to keep, and `up` will not end what it finds
└── Busy                     another process works on the cluster
"""

from __future__ import annotations

from models.errors import FarthingError


class ClusterError(FarthingError):
    code = "cluster_error"


class ProviderError(ClusterError):
    code = "provider_error"


class BadKey(ProviderError):
    code = "provider_key"


class NoCredit(ProviderError):
    code = "provider_credit"


class SearchQuota(ProviderError):
    code = "provider_search_quota"


class TooFast(ProviderError):
    code = "provider_rate_limit"


class OfferGone(ProviderError):
    code = "offer_gone"


class BidTooLow(ProviderError):
    code = "bid_too_low"

    def __init__(self, message: str, contract_id: int) -> None:
        super().__init__(message)
        self.contract_id = contract_id


class Refused(ProviderError):
    code = "provider_refused"


class ProviderDown(ProviderError):
    code = "provider_down"


class NothingWithin(ClusterError):
    code = "nothing_within_cap"


class BudgetReached(ClusterError):
    code = "budget_reached"


class BoxFailed(ClusterError):
    code = "box_failed"


class StillBilling(ClusterError):
    code = "still_billing"


class StateBroken(ClusterError):
    code = "state_broken"


class NotWritten(ClusterError):
    code = "not_written"


class NeverUp(ClusterError):
    code = "never_up"


class Busy(ClusterError):
    code = "busy"
