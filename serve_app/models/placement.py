"""Where a model's replicas go: what Serve is to reserve for each of them."""

from typing import Any

from manta.model_settings import ReplicaSettings


def placement(replicas: ReplicaSettings) -> dict[str, Any]:
    """Options of `serve.deployment` that reserve a replica's resources.

    Several GPUs of a replica come as a placement group of one bundle: all of one node, all at once or not at all,
    so that two replicas that start together do not each hold half of what they need. Ray then names all of them
    in the replica's CUDA_VISIBLE_DEVICES, which a server that it starts inherits.
    """
    actor: dict[str, Any] = {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus}
    resources = dict(replicas.resources)
    if replicas.accelerator_type:
        # As Ray itself does where one is asked for: nodes have 1 of it, and it is there to be told apart by.
        resources[f"accelerator_type:{replicas.accelerator_type}"] = 0.001
    if resources:
        actor["resources"] = resources
    if replicas.num_gpus <= 1:
        return {"ray_actor_options": actor}
    # The replica itself is placed in the first bundle.
    bundle = {"CPU": replicas.num_cpus, "GPU": replicas.num_gpus, **resources}
    return {
        "ray_actor_options": actor,
        "placement_group_bundles": [{name: amount for name, amount in bundle.items() if amount}],
        "placement_group_strategy": "STRICT_PACK",
    }
