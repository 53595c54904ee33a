"""`voxclone micro`: write a miniature checkpoint."""

from mlx_voxclone.cli.common import Parser, add_device, add_seed, entry, set_device


@entry
def main(argv: list[str]) -> None:
    parser = Parser("micro", "Write a complete miniature checkpoint in the release's layout, to try everything on.")
    parser.add_argument("--output", required=True, metavar="DIR", help="directory to make")
    parser.add_argument("--preset", choices=("tiny", "small"), default="tiny", help="0.8 or 2.9 million parameters")
    add_seed(parser)
    add_device(parser)
    options = parser.parse_args(argv)
    set_device(options.device)

    from mlx_voxclone.checkpoint.micro import make_micro

    print(make_micro(options.output, options.preset, options.seed))
