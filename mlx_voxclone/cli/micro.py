"""`voxclone micro`: write a miniature checkpoint."""

from mlx_voxclone.cli.common import Parser, add_device, add_quiet, add_seed, entry, set_device, set_quiet


@entry
def main(argv: list[str]) -> None:
    parser = Parser("micro", "Write a complete miniature checkpoint in the release's layout, to try everything on.")
    parser.add_argument("--output", required=True, metavar="DIR", help="directory to make")
    parser.add_argument(
        "--preset",
        choices=("tiny", "small", "speaking", "full"),
        default="tiny",
        help="random numbers: 0.8 or 2.9 million, or the release's own sizes (8 GB) to rehearse time and memory with;"
        " speaking: a small one trained on synthetic voices, its encoder withheld in DIR/withheld",
    )
    add_seed(parser)
    add_device(parser)
    add_quiet(parser)
    options = parser.parse_args(argv)
    set_quiet(options.quiet)
    set_device(options.device)

    from mlx_voxclone.checkpoint.micro import make_micro
    from mlx_voxclone.progress import weight_bar

    with weight_bar(options.quiet) as advance:
        print(make_micro(options.output, options.preset, options.seed, advance))
