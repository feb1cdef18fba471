"""`python -m mitai.attest.conformance STAGE < input.json`."""

import sys

from mitai.attest.conformance import MAX_INPUT_BYTES, main

exit_code, output = main(sys.argv[1:], sys.stdin.buffer.read(MAX_INPUT_BYTES + 1))
sys.stdout.buffer.write(output + b"\n")
sys.exit(exit_code)
