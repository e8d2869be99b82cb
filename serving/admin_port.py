"""A node's metrics on a port of its own, on loopback."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from models.errors import StartError
from serving.telemetry import CONTENT_TYPE, exposition


async def open_admin_port(folder: Path, port: int) -> web.AppRunner:
    """Raises StartError when the port is taken."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=exposition(folder), headers={"content-type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    except OSError as exc:
        await runner.cleanup()
        raise StartError(
            f"the admin port {port} cannot be used: {exc.strerror}; set another listen.admin_port"
        ) from exc
    return runner
