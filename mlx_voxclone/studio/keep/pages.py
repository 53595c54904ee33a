"""Pages of this step."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlx_voxclone.studio.web.pages import page


def routes() -> list[Route]:
    return [Route("/voices", _page)]


async def _page(request: Request) -> Response:
    return page(request, "keep/index.html")
