"""Trustee's KBS protocol beside ours, for guests built for Confidential Containers: `docs/spec/kbs.md`.

`messages` and `evidence` read what guests send, `endorse` asks for collateral, `sessions` decides, `app` speaks HTTP.
"""
