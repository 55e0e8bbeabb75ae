"""How the page looks."""

STYLE = """
:root { --ink: #1d2730; --soft: #55606a; --line: #dde2e6; --paper: #f5f6f7; --main: #0b5566; }
body { background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.25rem; font-weight: 650; margin: 0; line-height: 1.2; letter-spacing: -0.01em; }
h2 { font-size: 1.15rem; font-weight: 600; margin: 0 0 .35rem; line-height: 1.3; }
.top { background: white; color: var(--ink); border-bottom: 1px solid var(--line);
  box-shadow: none; align-items: center; gap: .25rem 1rem; padding: .5rem 1.25rem; }
.top .source { color: var(--soft); flex: 1; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; min-width: 0; }
.top .q-tab { padding: 0 .8rem; min-width: 0; min-height: 40px; }
.nicegui-content { padding: 0; }
.main { width: 100%; max-width: 1120px; margin: 0 auto; padding: 1.25rem; }
.panels { background: transparent; width: 100%; }
.panel { padding: 0; gap: 1.25rem; display: flex; flex-direction: column; }
.part { width: 100%; border: 1px solid var(--line); border-radius: 12px; box-shadow: none;
  padding: 1.25rem 1.5rem; gap: .75rem; }
.note { color: var(--soft); max-width: 46rem; overflow-wrap: anywhere; }
.big { font-size: 1.15rem; max-width: 46rem; }
.q-notification .q-btn { color: white !important; }
.q-loading-bar { display: none; }
.foot { color: var(--soft); font-size: .875rem; padding: 1.5rem 0 .5rem; }
.q-btn { text-transform: none; font-weight: 500; border-radius: 8px; }
.line { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: .6rem;
  width: 100%; }
.tile { border: 0; background: none; padding: 0; text-align: left; border-radius: 10px;
  font: inherit; color: inherit; cursor: default; min-width: 0; }
.tile img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 10px; display: block;
  background: #e7eaed; }
.tile span { display: block; font-size: .8rem; color: var(--soft); white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; padding: .15rem .1rem; }
button.tile { cursor: pointer; }
button.tile:focus-visible img { outline: 3px solid var(--main); outline-offset: 2px; }
button.tile[aria-pressed=true] img { outline: 4px solid var(--main); outline-offset: -4px; }
button.tile[aria-pressed=true] span { color: var(--main); font-weight: 600; }
.desk { display: grid; grid-template-columns: minmax(0, 1fr) 20rem; gap: 1.5rem; width: 100%; }
.view { background: #14181b; border-radius: 12px; height: min(64vh, 620px); overflow: auto;
  display: flex; width: 100%; }
.view img { margin: auto; max-width: 100%; max-height: 100%; object-fit: contain; }
.view.near img { max-width: none; max-height: none; width: 200%; }
.view.many { flex-wrap: wrap; gap: 6px; padding: 6px; }
.view.many img { max-width: 48%; max-height: 70%; }
.side { display: flex; flex-direction: column; gap: .5rem; min-width: 0; }
.answer { width: 100%; min-height: 44px; justify-content: flex-start; }
.answer .q-btn__content { justify-content: flex-start; gap: .6rem; flex-wrap: nowrap; }
.key { display: inline-block; min-width: 1.6em; text-align: center; border: 1px solid currentColor;
  border-radius: 5px; font-size: .8rem; line-height: 1.5; }
.name { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
table.two { border-collapse: collapse; }
table.two th, table.two td { border: 1px solid var(--line); padding: .5rem .9rem;
  text-align: right; }
table.two th { font-weight: 500; color: var(--soft); text-align: left; }
table.two td { font-size: 1.15rem; font-variant-numeric: tabular-nums; }
iframe.report { width: 100%; height: 80vh; border: 1px solid var(--line); border-radius: 10px;
  background: white; }
.q-uploader { box-shadow: none; border: 1px dashed #8b959d; border-radius: 10px;
  max-height: 14rem; }
.q-uploader__header { background: none; color: var(--ink); }
.q-uploader__header a { display: none; }
.q-table td img { width: 56px; min-width: 56px; height: 56px; object-fit: cover;
  border-radius: 6px; }
@media (max-width: 700px) {
  .main { padding: .75rem; } .part { padding: 1rem; }
  .top { padding: .4rem .75rem; } .top .q-tabs { width: 100%; }
  .top .q-tab { padding: 0 .5rem; }
  .desk { grid-template-columns: minmax(0, 1fr); gap: .75rem; }
  .view { height: 42vh; }
  .side.answers { display: grid; grid-template-columns: 1fr 1fr; }
  .grid { grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); }
}
"""
