"""python -m loco_jax lists the commands."""

COMMANDS = {
    "main": "train an experiment, score it, or repeat one of its steps",
    "predict": "find the people in your own pictures and videos",
    "convert": "write saved results of predict as C3D, TRC, BVH, glTF or CSV",
    "predict.merge": "make one table of the results of shards of predict",
    "reproduce": "train and score every system of the poster on equal budgets",
    "report": "compare runs with each other and with the paper",
    "benchmark": "measure how fast the networks and their parts are",
    "export": "write a run as one file, of weights or for other runtimes",
    "torch_weights": "convert a PyTorch file of the published networks",
    "data.jta": "prepare JTA for training",
    "data.miniature": "write a small synthetic data set in JTA's format",
}


def main() -> None:
    print("Commands of loco_jax; each explains itself with --help:\n")
    for name, purpose in COMMANDS.items():
        print(f"  python -m loco_jax.{name:<15} {purpose}")


if __name__ == "__main__":
    main()
