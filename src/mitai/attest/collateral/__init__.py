"""Collateral and endorsements from the vendors' services, a cache before them, and signed bundles instead of them."""

from mitai.attest.collateral.http import HttpTransport
from mitai.attest.collateral.resource import Item, Resource
from mitai.attest.collateral.services import PUBLIC, Services, complete, device_endorsements
from mitai.attest.collateral.store import Bundle, Cache, Recorder, Store, Transport

__all__ = [
    "PUBLIC",
    "Bundle",
    "Cache",
    "HttpTransport",
    "Item",
    "Recorder",
    "Resource",
    "Services",
    "Store",
    "Transport",
    "complete",
    "device_endorsements",
]
