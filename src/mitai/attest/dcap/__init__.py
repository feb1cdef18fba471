"""Intel DCAP attestation, shared by TDX and SGX: quotes, PCK certificates, collateral, TCB levels."""
