"""The look of the page; light or dark as the reader's system is."""

COLOURS = """
:root{color-scheme:light dark;--ink:#1d2730;--soft:#5d6b78;--paper:#fff;--line:#dfe5ea;--kept:#1d8a7a;--gone:#c4473a;
--duplicate:#d98b1c;--left:#7f8fb3}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebef;--soft:#9aa8b4;--paper:#14191d;--line:#2c353c;--kept:#3cb8a4;
--gone:#e8705f;--duplicate:#e7a64b;--left:#8fa1c9}}
"""
FUNNEL = """
svg text{fill:var(--ink);font:14px system-ui,sans-serif}svg text.went{fill:var(--gone);font-size:12px}
svg text.count{font-weight:600}svg rect.kept{fill:var(--kept)}.funnel{background:var(--paper)}
"""
STYLE = (
    COLOURS
    + FUNNEL
    + """
*{box-sizing:border-box}
body{margin:0;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
header{position:sticky;top:0;z-index:1;padding:.5rem 1.5rem;background:var(--paper);border-bottom:1px solid var(--line)}
header h1{display:inline;font-size:1.1rem;margin-right:1.5rem}
nav{display:inline}nav a{margin-right:1rem}a{color:var(--kept)}
main{max-width:1180px;margin:0 auto;padding:0 1.5rem 4rem}
section{padding-top:1.2rem;scroll-margin-top:3rem}
.lead{font-size:1.15rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35rem .7rem .35rem 0;
border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:500}.number{text-align:right;white-space:nowrap}
.wide{overflow-x:auto}code{font-size:.85em;overflow-wrap:anywhere;margin-right:.6em}
.funnel{width:100%;max-width:900px;height:auto}
.group{display:inline-flex;flex-wrap:wrap;gap:6px;padding:6px;vertical-align:top}
.groups .group{border:1px solid var(--line);border-radius:6px;margin:0 6px 6px 0}
figure{margin:0;width:84px}figure img{width:80px;height:80px;object-fit:contain;display:block}
figcaption{font-size:11px;line-height:1.25;color:var(--soft)}
figcaption b{display:block;font-weight:600;color:var(--kept)}.gone figcaption b{color:var(--gone)}
figcaption span{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.gone img{outline:2px solid var(--gone);outline-offset:-2px;opacity:.75}
.maps{display:flex;flex-wrap:wrap;gap:1rem}.map{width:420px;height:420px;border:1px solid var(--line);border-radius:6px}
.dot{fill:none;stroke-width:4.5;stroke-linecap:round;stroke-opacity:.65}.dot.stays{stroke:var(--kept)}
.dot.duplicate{stroke:var(--duplicate)}.dot.leak{stroke:var(--gone)}.dot.left{stroke:var(--left)}
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin:0 .35em 0 1em}
.swatch.stays{background:var(--kept)}.swatch.duplicate{background:var(--duplicate)}.swatch.leak{background:var(--gone)}
.swatch.left{background:var(--left)}.good{color:var(--kept)}.bad{color:var(--gone)}
"""
)
