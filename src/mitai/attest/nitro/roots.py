"""AWS's root of Nitro Enclaves, the trust anchor of every genuine attestation document.

- Source: https://aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip, named with this fingerprint in
  "Verifying the root of trust" of the AWS Nitro Enclaves user guide
- Subject: CN=aws.nitro-enclaves, OU=AWS, O=Amazon, C=US; valid 2019-10-28 to 2049-10-28; P-384
"""

AWS_NITRO_ROOT_G1_SHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
