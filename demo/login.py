"""A stand-in for a company's login: who is this viewer, and which account pays?

The gateway asks it for every request (`GET /check`); the page logs in and out by it. It knows
households by their names and believes everybody: it shows where a real login stands.
"""

from __future__ import annotations

import secrets

from aiohttp import web

COOKIE = "login"
MAX_NAME_LENGTH = 40

HOUSEHOLDS = web.AppKey("households", dict[str, str])
LIMITS = web.AppKey("limits", dict[str, int])
QUALITIES = web.AppKey("qualities", dict[str, str])


def login_app(limits: dict[str, int] | None = None) -> web.Application:
    """Make the login.

    Args:
        limits: How many streams a household may have at a time, where its plan says so.
    """
    app = web.Application(client_max_size=1024)
    app[HOUSEHOLDS] = {}
    app[LIMITS] = limits or {}
    app[QUALITIES] = {}
    app.add_routes(
        [
            web.get("/check", _check),
            web.get("/login", _who),
            web.post("/login", _login),
            web.put("/login", _watch_in),
            web.delete("/login", _logout),
        ]
    )
    return app


def _household(request: web.Request) -> str:
    household = request.app[HOUSEHOLDS].get(request.cookies.get(COOKIE, ""))
    if household is None:
        raise web.HTTPUnauthorized
    return household


async def _check(request: web.Request) -> web.Response:
    household = _household(request)
    headers = {"Account": f"household:{household}"}
    if household in request.app[LIMITS]:
        headers["Account-Limit"] = str(request.app[LIMITS][household])
    quality = request.app[QUALITIES].get(request.cookies[COOKIE])
    if quality is not None:
        headers["Account-Attributes"] = f"quality={quality}"
    return web.Response(status=204, headers=headers)


async def _watch_in(request: web.Request) -> web.Response:
    """What is to be watched next: the company's catalogue says so, never the player."""
    _household(request)
    quality = await request.text()
    if quality not in ("hd", "uhd"):
        raise web.HTTPBadRequest
    request.app[QUALITIES][request.cookies[COOKIE]] = quality
    return web.Response(status=204)


async def _who(request: web.Request) -> web.Response:
    return web.json_response({"household": _household(request)})


async def _login(request: web.Request) -> web.Response:
    household = (await request.text()).strip()
    if not household.isascii() or not household.isprintable() or not household:
        raise web.HTTPBadRequest
    cookie = secrets.token_urlsafe(16)
    request.app[HOUSEHOLDS][cookie] = household[:MAX_NAME_LENGTH]
    response = web.Response(status=204)
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="Lax")
    return response


async def _logout(request: web.Request) -> web.Response:
    request.app[HOUSEHOLDS].pop(request.cookies.get(COOKIE, ""), None)
    response = web.Response(status=204)
    response.del_cookie(COOKIE)
    return response
