"""What the tests in a browser share."""

from __future__ import annotations

import shutil
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parents[1] / ".venv-browser" / "package" / "axe.min.js"  # `make browser` fetches it

# Texts that would do something if they became markup, or a script.
ATTACKS = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "<svg onload=window.hit=1>",
    "<svg><script>window.hit=1</script></svg>",
    "<iframe src=javascript:window.hit=1></iframe>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<body onload=window.hit=1>",
    "<details open ontoggle=window.hit=1>x</details>",
    "<input autofocus onfocus=window.hit=1>",
    "<video><source onerror=window.hit=1></video>",
    "<math><mtext><script>window.hit=1</script></mtext></math>",
    "<style>@import '/page/none.css'</style>",
    "<link rel=stylesheet href=/page/none.css>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<object data=javascript:window.hit=1></object>",
    "<embed src=javascript:window.hit=1>",
    "<form action=//evil.example><button>x</button></form>",
    "<a href=javascript:window.hit=1>x</a>",
    "[x](javascript:window.hit=1)",
    "[x](JaVaScRiPt:window.hit=1)",
    "[x](\tjavascript:window.hit=1)",
    "[x](data:text/html,<script>window.hit=1</script>)",
    "[x](vbscript:x)",
    "[x](//evil.example)",
    "![x](http://evil.example/x.png)",
    "![x](x onerror=window.hit=1)",
    "<javascript:window.hit=1>",
    "`<script>window.hit=1</script>`",
    "```html\n<script>window.hit=1</script>\n```",
    '```"><script>window.hit=1</script>\nx\n```',
    "| <img src=x onerror=window.hit=1> | b |\n|--|--|\n| <script>window.hit=1</script> | c |",
    "> <script>window.hit=1</script>",
    "# <img src=x onerror=window.hit=1>",
    "1. <script>window.hit=1</script>",
    "**<img src=x onerror=window.hit=1>**",
    "$<script>window.hit=1</script>$",
    "$$\\href{javascript:window.hit=1}{x}$$",
    '"><script>window.hit=1</script>',
    "{{constructor.constructor('window.hit=1')()}}",
]
