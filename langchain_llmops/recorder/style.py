"""The one style sheet, in light and dark, down to the width of a phone."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c1d21;--paper:#fff;--quiet:#6a6d76;--line:#e4e5ea;--tint:#f5f6f8;--link:#1757c2;
--bad:#b3261e;--good:#1b7a43;--bar:#7aa2f0}
@media(prefers-color-scheme:dark){:root{--ink:#e7e8ec;--paper:#15161a;--quiet:#989ca8;--line:#2d2f37;--tint:#1e2027;
--link:#8ab4ff;--bad:#ff8a80;--good:#6fd39a;--bar:#4a6fc0}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:0 auto;padding:0 1rem 3rem;color:var(--ink);
background:var(--paper)}
nav{padding:.8rem 0;border-bottom:1px solid var(--line);display:flex;gap:1.2rem}nav a{font-weight:600}
h1{font-size:1.35rem;margin:1.2rem 0 .6rem;overflow-wrap:anywhere}a{color:var(--link);text-decoration:none}
a:hover{text-decoration:underline}.quiet,time{color:var(--quiet)}p{margin:.4rem 0}
form{display:flex;flex-wrap:wrap;gap:.5rem;align-items:center;margin:.8rem 0}
input,button{font:inherit;padding:.25rem .5rem;border:1px solid var(--line);border-radius:6px;background:var(--tint);
color:inherit}input:not([type]){width:9rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .6rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:break-word}
th{white-space:nowrap;font-weight:600;color:var(--quiet);font-size:.85rem}time{white-space:nowrap}
td[data-name=user],td[data-name=session],td[data-name=thread]{min-width:5rem;max-width:14rem}
td:first-child{min-width:14rem}.figure{text-align:right;white-space:nowrap}
.preview{overflow:hidden;text-overflow:ellipsis;display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical}
.state{font-weight:600}.state.error,p.error{color:var(--bad)}.state.ok{color:var(--good)}.state.open{color:var(--quiet)}
p.error{overflow-wrap:anywhere}[title]{text-decoration:underline dotted;cursor:help}
.run{display:grid;grid-template-columns:minmax(10rem,3fr) 6rem 5rem 6.5rem 5rem minmax(6rem,2fr);gap:.6rem;
align-items:center;padding:.35rem .4rem;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
.run.head{color:var(--quiet);font-size:.85rem;font-weight:600}
.run.head span:nth-child(n+3):nth-child(-n+5){text-align:right}
summary{cursor:pointer}summary.run{list-style:none}summary.run::-webkit-details-marker{display:none}
summary.run:hover{background:var(--tint)}.name{padding-left:calc(var(--depth)*1.1rem);overflow-wrap:anywhere}
.name::before{content:"▸ ";color:var(--quiet)}details[open]>summary>.name::before{content:"▾ "}
.run.error .name{color:var(--bad);font-weight:600}
.kind{font-size:.8rem;color:var(--quiet)}.kind.llm{color:var(--link);font-weight:600}
.bar{background:var(--tint);border-radius:3px;height:.7rem;overflow:hidden}
.bar i{display:block;height:100%;background:var(--bar);border-radius:3px}.run.error .bar i{background:var(--bad)}
.body{padding:.4rem 0 1rem 1.2rem;border-bottom:1px solid var(--line)}.body summary{color:var(--quiet);margin:.4rem 0}
.said{margin:.4rem 0;padding:.4rem .7rem;background:var(--tint);border-left:3px solid var(--line);border-radius:4px}
.said p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}.said b{font-size:.8rem;color:var(--quiet)}
.said.user{border-color:var(--bar)}.said.assistant{border-color:var(--good)}.said.error{border-color:var(--bad);color:var(--bad)}
pre{background:var(--tint);padding:.6rem;border-radius:6px;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;
font-size:.85rem;max-height:32rem}article{border-bottom:1px solid var(--line);padding:.8rem 0}
@media(max-width:46rem){thead,.run.head{display:none}
table,tbody{display:block}tr{display:block;padding:.5rem 0;border-bottom:1px solid var(--line)}
td{display:inline-block;border:0;padding:0 .8rem 0 0}
td[data-name=user],td[data-name=session],td[data-name=thread]{min-width:0;max-width:100%}
td::before,.run .figure::before{content:attr(data-name) " ";color:var(--quiet);font-size:.8rem}
td:first-child{display:block;padding:0;min-width:0}td:first-child::before{content:none}
.run .figure.none{display:none}.run{display:flex;flex-wrap:wrap;gap:.15rem .7rem}
.run .name,.run .bar{width:100%}.run .kind{flex:1}.kind,.run .figure{font-size:.8rem}
.name{padding-left:calc(var(--depth)*.7rem)}
input:not([type]){width:calc(50% - .25rem)}.body{padding-left:.4rem}}
"""
