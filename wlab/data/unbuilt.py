"""pip that downloads a source package and runs none of its code.

pip builds every source package that it downloads, if only to learn its name, and always in a
process of its own. Here the first such process ends pip instead. The archive stays in the
temporary folder, verified by nobody yet.
"""

import os
import runpy
import sys
from typing import Any

_STARTS = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system")


def end_at_build(event: str, found: tuple[Any, ...]) -> None:
    """An audit hook: pip builds with this very Python; all other programs do not start either.

    Raises:
        OSError: If another program shall be started. pip does without those it asks about the
            system.

    Reference:
        PEP 578.
    """
    if event == "subprocess.Popen" and found[0] == sys.executable:
        os._exit(0)
    if event == "subprocess.Popen" or event in _STARTS:
        raise OSError("pip may start no program here: it might be a source package's build.")


if __name__ == "__main__":
    sys.addaudithook(end_at_build)
    runpy.run_module("pip", run_name="__main__", alter_sys=True)
