"""`qdr-edge keys`: make a signing key, look at one, accept a maker's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qdr_edge.keys import PublicKey, TrustStore

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Make a signing key, look at one, accept a maker's.",
)


@app.command()
def new(
    path: Annotated[
        Path, typer.Argument(help="Private key to write, such as maker.pem; never overwritten.")
    ],
) -> None:
    """Make an Ed25519 key: PATH with mode 0600, and its public half beside it as .pub.pem."""
    from qdr_edge.keys import SigningKey

    public_path = path.with_suffix(".pub.pem")
    key = SigningKey.generate()
    key.save_pair(path, public_path)
    print(f"key id       {key.key_id}")
    print(f"private key  {path}  (keep it secret, off the build machine)")
    print(f"public key   {public_path}  (for every device: qdr-edge keys trust {public_path})")


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A private or public key (PEM), or a bundle.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write the public key here; never overwritten.")
    ] = None,
) -> None:
    """Show a key's id and public half, or a bundle's signer, and whether it is trusted here."""
    from qdr_edge.errors import SignatureError
    from qdr_edge.keys import TrustStore, public_key_of, trust_folder

    store = TrustStore.local()
    key: PublicKey | None
    if _is_bundle(path):
        from qdr_edge.bundle import inspect_bundle

        inspection = inspect_bundle(path)
        key_id = inspection.manifest.key_id
        print(f"signature  {inspection.signature}")
        key = store.get(key_id)
    else:
        key = public_key_of(path)
        key_id = key.key_id
    print(f"key id     {key_id or 'none'}")
    trusted = key_id in store.keys
    print(f"trusted    {'yes' if trusted else 'no'}, {trust_folder()}")
    if key is not None:
        print(key.to_pem().decode(), end="")
    if out is not None:
        if key is None:
            raise SignatureError(
                f"the public key of {key_id or 'an unsigned bundle'} is not known here",
                where=str(path),
                expected="a key file, or a bundle of a trusted signer",
                fix="obtain the public key from the maker",
            )
        key.save(out)


@app.command()
def trust(
    path: Annotated[Path, typer.Argument(help="The maker's public key (PEM).")],
) -> None:
    """Accept a maker's bundles on this machine from here on."""
    from qdr_edge import keys

    key = keys.PublicKey.load(path)
    print(f"trusted  {key.key_id}, {keys.trust(key)}")


def _is_bundle(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return handle.read(2) == b"PK"
    except OSError:
        return False  # the reader of keys says what is wrong with it


def trust_of(paths: list[Path] | None) -> TrustStore | None:
    """The trust store of `--key` options; None, this user's own, if there are none."""
    from qdr_edge.keys import PublicKey, TrustStore

    return TrustStore.of(*(PublicKey.load(path) for path in paths)) if paths else None
