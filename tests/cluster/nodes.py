"""A Ray of three nodes on this machine, in a process of its own: `python -m tests.cluster.nodes FOLDER`.

Says `READY address` when it is up. Each line that it reads is the id of a worker's process: the node of that worker is
removed at once, without a farewell, and `REMOVED` is said when the worker is gone too. It ends with its input, and its
nodes with it.
"""

import sys
from typing import Any

import psutil
from ray.cluster_utils import Cluster

WORKERS = 2


def main(folder: str) -> None:
    head = {"num_cpus": 4, "temp_dir": folder, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(WORKERS):
        cluster.add_node(num_cpus=1, resources={"far": 1}, temp_dir=folder)
    cluster.wait_for_nodes()
    print(f"READY {cluster.address}", flush=True)
    for line in sys.stdin:
        worker = psutil.Process(int(line))
        cluster.remove_node(_node_of(cluster, worker), allow_graceful=False)
        # A worker outlives its node by the moment it takes to notice; a lost machine would not wait for it.
        worker.kill()
        psutil.wait_procs([worker], timeout=30)
        print("REMOVED", flush=True)
    cluster.shutdown()


def _node_of(cluster: Cluster, worker: psutil.Process) -> Any:
    """The worker node whose raylet has started this process."""
    raylet = worker.ppid()
    for node in cluster.worker_nodes:
        if raylet in [started.process.pid for started in node.all_processes["raylet"]]:
            return node
    raise LookupError(f"process {worker.pid} is on none of the worker nodes")


if __name__ == "__main__":
    main(sys.argv[1])
