"""What stands behind "?" in an address: only names that the route reads, each once, with a value it accepts.

Probes and metrics are left out: load balancers and scrapers add parameters of their own.
"""

# Annotations are real types here: FastAPI reads them.

from collections import Counter

from starlette.requests import Request

from joyimage.serving.http.errors import ApiError

_LONGEST_SHOWN = 100


def check_query(request: Request) -> None:
    """Reject a query parameter that the route would not read.

    The framework checks the values of those that it does read.

    Raises:
        ApiError: A parameter is unknown, or given twice.
    """
    route = request.scope["route"]
    accepted = [field.alias for field in route.dependant.query_params]  # codespell:ignore dependant
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        shown = name[:_LONGEST_SHOWN]
        if name not in accepted:
            known = f"expected {', '.join(accepted)}" if accepted else "this address accepts none"
            where = "; fields of a request go into its body" if request.method == "POST" else ""
            raise ApiError(
                400,
                f"`{shown}` is not a query parameter here; {known}{where}.",
                code="unknown_parameter",
                param=shown,
            )
        if count > 1:
            raise ApiError(
                400, f"`{shown}` is given {count} times; give it once.", code="invalid_value", param=shown
            )
