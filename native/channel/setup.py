"""Compile the hot modules of mitai.channel, from the very sources that the interpreter would run.

`mitai.channel.compiled` takes the result only where mitai's sources are those that are named in it by their digests.
"""

import shutil
from hashlib import sha256
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Extension, setup

MODULES = ("bhttp", "frames", "hpke", "memory", "ohttp", "padding")
CHANNEL = Path(__file__).parents[2] / "src/mitai/channel"
BUILD = Path("build")  # setup runs in this folder

shutil.rmtree(BUILD, ignore_errors=True)
package = BUILD / "mitai_channel"
package.mkdir(parents=True)
digests = {f"{name}.py": sha256((CHANNEL / f"{name}.py").read_bytes()).hexdigest() for name in MODULES}
(package / "__init__.py").write_text(f'"""Compiled modules of mitai.channel."""\n\nSOURCES = {digests!r}\n')
modules = mypycify(
    ["--config-file=", "--ignore-missing-imports", *(str(CHANNEL / name) for name in digests)],
    group_name="mitai_channel",
    target_dir=str(BUILD),
)
for module in modules:  # mitai.channel.ohttp keeps this name, and lies in mitai_channel
    module.name = module.name.replace("mitai.channel.", "mitai_channel.")
setup(
    packages=["mitai_channel"],
    package_dir={"mitai_channel": str(package)},
    ext_modules=[*modules, Extension("mitai_channel.hkdf", ["hkdf.c"])],
)
