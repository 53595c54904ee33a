"""Pages of this step."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlx_voxclone.studio.web.pages import page, project_of


def routes() -> list[Route]:
    return [Route("/voices/{project}/train", _page)]


async def _page(request: Request) -> Response:
    if "project" in request.path_params:
        project_of(request)
    return page(request, "train/index.html")
