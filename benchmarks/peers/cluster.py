"""A Ray cluster of two nodes; each line that it reads names a node to kill, and adds another."""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    """Run it until there is nothing more to read."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes.pop(line.strip()), allow_graceful=False)
        added = cluster.add_node(num_cpus=1)
        nodes[added.node_id] = added
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
