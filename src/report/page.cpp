// The HTML frame of a report: style sheet, heading, sections.
#include <fmt/format.h>

#include "report/html.h"
#include "report/report.h"

namespace qalof::report {

namespace {

constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--ink:#1d2129;--soft:#5c6573;--line:#e3e6eb;
--axis:#aeb5c0;--shade:#1d21293d;--s1:#2f63d6;--s2:#d1700c;--s3:#11845b;--s4:#7d4cd0;--s5:#c22f63;--s6:#6b7280;--loss:#e0702b;--gain:#2f7fd6}
@media(prefers-color-scheme:dark){:root{--page:#0e1116;--card:#171b22;--ink:#e7eaef;--soft:#9aa4b2;--line:#282e38;
--axis:#555e6b;--shade:#000000b0;--s1:#7ba6ff;--s2:#f0a257;--s3:#52c99a;--s4:#b598f7;--s5:#f2809f;--s6:#9aa4b2;--loss:#d9753a;--gain:#4f94dd}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 64px}
header{margin-bottom:28px}
h1{font-size:30px;line-height:1.2;margin:2px 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:20px;margin:40px 0 12px;letter-spacing:-.005em}
h3{font-size:15px;margin:22px 0 10px;overflow-wrap:anywhere}
h3 small,.note{font-weight:400;font-size:13px;color:var(--soft)}
h4{font-size:13px;font-weight:600;margin:0 0 8px}
p{margin:8px 0}
.eyebrow{font-size:12px;font-weight:600;letter-spacing:.08em;text-transform:uppercase;color:var(--s1);margin:0}
.note{max-width:76ch;overflow-wrap:anywhere}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:0 0 16px}
.tile,.card,.scroll{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{flex:1 1 150px;padding:12px 16px}
.tile b{display:block;font-size:24px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{font-size:13px;color:var(--soft)}
.grid{display:grid;grid-template-columns:repeat(6,minmax(0,1fr));gap:14px;align-items:start}
.card{padding:14px 16px 12px;min-width:0;container-type:inline-size}
.six2{grid-column:span 2}.six3{grid-column:span 3}.six6{grid-column:span 6}
.half,.full{display:none}
@container(min-width:470px){.half{display:block}.third:not(:only-of-type){display:none}}
@container(min-width:860px){.full{display:block}.half:has(+.full){display:none}}
@media(max-width:1000px){.six2,.six3{grid-column:span 3}.six2:last-child:nth-child(odd),.six3:last-child:nth-child(odd){grid-column:span 6}}
@media(max-width:760px){.six2,.six3,.six6{grid-column:span 6}}
.scroll{overflow-x:auto;overflow-y:hidden;background:
linear-gradient(90deg,var(--card) 35%,transparent) left/40px 100% no-repeat local,
linear-gradient(270deg,var(--card) 35%,transparent) right/40px 100% no-repeat local,
linear-gradient(90deg,var(--shade),transparent) left/14px 100% no-repeat scroll,
linear-gradient(270deg,var(--shade),transparent) right/14px 100% no-repeat scroll,var(--card)}
.card .scroll{border:0;border-radius:0;margin:0 -16px}.card th:first-child,.card td:first-child{padding-left:16px}
@keyframes more{from,99%{max-height:2.4em;padding:5px 0;color:var(--s1)}to{max-height:2.4em;padding:5px 0;color:transparent}}
@supports(animation-timeline:scroll()){.scroll::after{content:"More columns \2192";display:block;position:sticky;left:0;width:100%;max-height:0;overflow:hidden;
font-size:12px;font-weight:600;text-align:center;background:var(--card);animation:more linear both;animation-timeline:scroll(nearest inline)}}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:8px 14px;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft);font-size:12px;white-space:normal;vertical-align:bottom}
.words,th:first-child,td:first-child{text-align:left}
tbody tr:last-child td{border-bottom:0}
td.bar{position:relative;min-width:104px}
td.bar i{position:absolute;left:8px;top:5px;bottom:5px;max-width:calc(100% - 16px);background:var(--s1);opacity:.16;border-radius:4px}
td.bar b{position:relative;font-weight:600}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;margin:6px 0 0;font-size:12.5px;color:var(--soft)}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px;background:currentColor}
pre{margin:0;padding:14px 16px;background:var(--card);border:1px solid var(--line);border-radius:10px;
font:12.5px/1.6 ui-monospace,SFMono-Regular,Menlo,"Liberation Mono",monospace;white-space:pre-wrap;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto;margin:0 auto;overflow:visible}
.third svg{max-width:480px}.half svg{max-width:900px}
svg text{font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;fill:var(--ink);font-variant-numeric:tabular-nums}
svg .tick,svg .name,svg .value{fill:var(--soft)}
svg .cell{font-size:10.5px}
svg .mark{paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
svg .grid{stroke:var(--line)}svg .axis{stroke:var(--axis)}
svg .whisker{stroke:var(--ink);stroke-width:1.4;opacity:.65}
svg .loss{fill:var(--loss)}svg .gain{fill:var(--gain)}svg .plain{fill:var(--s1)}
svg .line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}
svg .stairs{fill:none;stroke:var(--axis);stroke-width:1.4;stroke-dasharray:4 3}
svg .dot{fill:currentColor;stroke:var(--card);stroke-width:1.2}
svg .error{stroke:currentColor;stroke-width:1.4}
svg .leader{stroke:var(--axis)}
svg .touch{fill:currentColor;opacity:0}svg .touch:hover{opacity:1}
.s1{color:var(--s1)}.s2{color:var(--s2)}.s3{color:var(--s3)}.s4{color:var(--s4)}.s5{color:var(--s5)}.s6{color:var(--s6)}
@media(max-width:520px){main{padding:20px 12px 48px}h1{font-size:25px}th,td{padding:7px 8px}table{font-size:12.5px}
th:first-child,td:first-child{white-space:normal;min-width:96px}.tile{padding:10px 12px}.tile b{font-size:20px}}
@container(max-width:470px){th,td{padding:7px 8px}table{font-size:12.5px}th:first-child,td:first-child{white-space:normal;min-width:96px}}
@media print{body{background:#fff}.card,.tile,pre{break-inside:avoid}}
)css";

}  // namespace

std::string report_page(const std::string& title, const std::string& summary,
                        const std::string& sections) {
  const std::string name = html_escape(title);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{} · QaLoF report</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n"
      "<header><p class=\"eyebrow\">QaLoF report</p>\n<h1>{}</h1>\n<p "
      "class=\"note\">{}</p></header>\n"
      "{}</main>\n</body>\n</html>\n",
      name, kStyle, name, html_escape(summary), sections);
}

}  // namespace qalof::report
