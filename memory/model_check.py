"""Which models made the vectors of a scope; a search over those of two is refused."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session


class MixedModels(RuntimeError):
    """What is remembered has vectors of another model than the one that asks; the two cannot be compared."""


# Two looks into an index; counting the models of a scope would read all of it.
FIRST_AND_LAST = """
    (SELECT min(model_id) FROM chargehand.embeddings WHERE tenant = :tenant AND scope = :scope) AS first_model,
    (SELECT max(model_id) FROM chargehand.embeddings WHERE tenant = :tenant AND scope = :scope) AS last_model
"""


def require_own_vectors(session: Session, models: set[str | None], *, tenant: UUID, scope: str, model_id: str) -> None:
    """Raise `MixedModels` unless every memory of `scope` that has a vector has one of this model.

    `models`: what `FIRST_AND_LAST` gave; only where others are among them are the vectors counted.
    """
    if models <= {None, model_id}:
        return
    found = session.execute(
        text(
            """
            SELECT count(*) FILTER (WHERE NOT mine) AS others, count(*) AS embedded, min(model) AS model
            FROM (
                SELECT bool_or(model_id = :model) AS mine, min(model_id) FILTER (WHERE model_id <> :model) AS model
                FROM chargehand.embeddings WHERE tenant = :tenant AND scope = :scope GROUP BY memory
            ) of_each
            """
        ),
        {"tenant": tenant, "scope": scope, "model": model_id},
    ).one()
    if found.others:
        raise MixedModels(
            f"{found.others} of the {found.embedded} vectors of {scope!r} are of {found.model} and not of {model_id}, "
            "which asks; vectors of two models cannot be compared. Run chargehand memory reindex to its end (it goes "
            f"on where it stopped), or ask with {found.model}."
        )
