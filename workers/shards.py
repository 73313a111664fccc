"""Which findings a triage step has to decide: pure functions of its arguments and inputs."""

from collections.abc import Collection, Mapping

from pydantic import JsonValue


def assigned_findings(arguments: Mapping[str, JsonValue], inputs: Mapping[str, JsonValue]) -> list[str] | None:
    """Ids of the step's findings in the order of the scan, each once; None when its inputs hold no list of findings.

    Arguments may name them (`finding_ids`), or a share: the finding at index i belongs to shard `i % shards`.
    """
    named = arguments.get("finding_ids")
    if isinstance(named, list):
        return list(dict.fromkeys(str(finding_id) for finding_id in named))
    results = [result for result in inputs.values() if isinstance(result, dict)]
    if not any("findings" in result for result in results):
        return None
    found = list(dict.fromkeys(finding_id for result in results for finding_id in _ids(result)))
    shard, shards = arguments.get("shard"), arguments.get("shards")
    if isinstance(shard, int) and isinstance(shards, int) and shards > 0:
        return [finding_id for index, finding_id in enumerate(found) if index % shards == shard]
    return found


def only_findings(inputs: Mapping[str, JsonValue], assigned: Collection[str]) -> dict[str, JsonValue]:
    """The inputs without the findings of other shards, which would only cost tokens."""
    kept = set(assigned)
    narrowed: dict[str, JsonValue] = {}
    for key, result in inputs.items():
        listed = result.get("findings") if isinstance(result, dict) else None
        if isinstance(result, dict) and isinstance(listed, list):
            own: list[JsonValue] = [
                item for item in listed if isinstance(item, dict) and item.get("finding_id") in kept
            ]
            narrowed[key] = {**result, "findings": own}
        else:
            narrowed[key] = result
    return narrowed


def _ids(result: Mapping[str, JsonValue]) -> list[str]:
    listed = result.get("findings")
    if not isinstance(listed, list):
        return []
    return [str(item["finding_id"]) for item in listed if isinstance(item, dict) and "finding_id" in item]
