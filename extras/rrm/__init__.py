"""What `pip install -e .` installs: the command `rrm`, and `import rrm` for a notebook.

    rrm                                  lists the commands
    rrm judge --query Q --a A --b B      is python judge.py --query Q --a A --b B
    rrm plot out/run                     is python -m extras.plot out/run

The modules of this repository have plain names, such as `data` and `cli`, which must not lie in
site-packages. Only the name `rrm` does. Importing it puts the folder of the repository first on
the Python path of this process, so that `from judge import Judge` works from any folder.
"""

import ast
import runpy
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]


def find_modules():
    """Puts the modules of the repository first on the path. Raises ImportError."""
    if not (HOME / "judge.py").exists():
        raise ImportError(
            "rrm is installed without its folder: clone the repository, and in it call "
            "pip install -e ."
        )
    names = [path.stem for path in HOME.glob("*.py")] + ["extras", "kernels"]
    for name in names:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path and HOME not in Path(path).resolve().parents:
            raise ImportError(
                f"rrm has a module {name}, and another one is loaded from {path}: import rrm "
                "before it, or rename that file"
            )
    if str(HOME) not in sys.path[:1]:
        sys.path.insert(0, str(HOME))


def commands():
    """{name: (file, what it does)} of every file that is a command."""
    found = {}
    for path in [*sorted(HOME.glob("*.py")), *sorted(HOME.glob("extras/*.py"))]:
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text and "cli.run(" in text:
            found[path.stem] = path, ast.get_docstring(ast.parse(text)).split("\n")[0]
    return found


def main():
    """Runs a command as python FILE or python -m extras.NAME would."""
    known = commands()
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else "__help"
    if name in known:
        path, _ = known[name]
        del sys.argv[1]
        if path.parent == HOME:
            runpy.run_path(str(path), run_name="__main__")
        else:
            runpy.run_module(f"extras.{name}", run_name="__main__", alter_sys=True)
        return
    lines = ["rrm COMMAND --flag value ...   (rrm COMMAND --help lists the flags of a command)", ""]
    lines += [f"{name:13} {text}" for name, (_, text) in known.items()]
    if name in ("__help", "__h"):
        from cli import run  # which ends quietly where the reader, such as head, has seen enough

        run(lambda: print("\n".join(lines)))
    else:
        print(f"rrm: no command {sys.argv[1]!r}: rrm --help lists them", file=sys.stderr)
        sys.exit(2)


find_modules()
