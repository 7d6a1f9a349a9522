(() => {
  const set = (id, value) => {
    const box = document.querySelector(`#${id} textarea, #${id} input`);
    if (!box) return;
    const kind = box.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(box, value);
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const clock = (s) => {
    const m = Math.floor(s / 60), left = String(Math.floor(s % 60)).padStart(2, "0");
    return `${m}:${left}`;
  };
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };

  // Asking: what the controls hold goes to /hits, and what comes back is given to Gradio

  let newest = null;
  window.psAsk = (names, values, how) => {
    const said = Object.fromEntries(names.map((name, place) => [name, values[place]]));
    const { more, most, ...instead } = how;
    Object.assign(said, instead);
    if (more) said.k = Math.min(most, Number(said.k) + more);
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(said))
      if (value !== null && value !== undefined && value !== "") query.set(name, typeof value === "boolean" ? Number(value) : value);
    const out = document.getElementById("ps-out");
    out?.setAttribute("aria-busy", "true");
    const mine = newest = (async () => {
      let found;
      try {
        const answer = await fetch(`/hits?${query}`);
        const text = await answer.text();
        found = answer.ok ? JSON.parse(text) : { problem: text };
        if (found.problem) try { found.problem = JSON.parse(found.problem).detail; } catch {}
      } catch { found = { problem: "The page's program does not answer. Start it again, then search again." }; }
      if (mine !== newest) return newest; // asked for something else meanwhile
      out?.removeAttribute("aria-busy");
      if (found.problem) {
        const told = make("p", { className: "ps-message ps-error", textContent: found.problem });
        return [told.outerHTML, "", said.like, said.k];
      }
      if (found.link) history.replaceState(null, "", found.link);
      if (said.rerank) setTimeout(() => window.psLookAgain(found.link, mine));
      return [found.out, found.top, said.like, said.k];
    })();
    return mine;
  };
  // What a second look says, as long as nothing else is asked: a line of JSON each time
  window.psLookAgain = async (query, mine = newest ??= {}) => {
    if (mine !== newest || new URLSearchParams(query).get("rerank") !== "1") return;
    const leave = new AbortController();
    try {
      const answer = await fetch(`/looks${query}`, { signal: leave.signal });
      let rest = "";
      for (const reader = answer.body.getReader(), words = new TextDecoder(); ;) {
        const { done, value } = await reader.read();
        if (mine !== newest) { leave.abort(); return; }
        if (done) return;
        const lines = (rest + words.decode(value, { stream: true })).split("\n");
        rest = lines.pop();
        if (answer.ok && lines.length) set("ps-looked", lines.at(-1));
      }
    } catch {}
  };

  // The viewer

  let viewer = null, cards = [], at = 0;
  const show = (index) => {
    if (index < 0 || index >= cards.length) return;
    at = index;
    const hit = JSON.parse(cards[at].dataset.hit);
    if (!viewer) {
      viewer = make("dialog", { id: "ps-viewer" });
      viewer.setAttribute("aria-label", "A hit");
      viewer.addEventListener("click", (e) => { if (e.target === viewer) viewer.close(); });
      viewer.addEventListener("close", () => { viewer.replaceChildren(); cards[at]?.querySelector(".ps-open")?.focus(); });
      viewer.addEventListener("keydown", (e) => {
        if (e.target.tagName === "VIDEO") return;
        if (e.key === "ArrowRight") show(at + 1);
        if (e.key === "ArrowLeft") show(at - 1);
      });
      document.body.append(viewer);
    }
    const stage = make("div", { className: "ps-stage" });
    const parts = [stage];
    if (hit.kind === "video") {
      const video = make("video", { controls: true, autoplay: true, muted: true, playsInline: true, src: `/media/${hit.hash}#t=${hit.start ?? 0}` });
      video.addEventListener("loadedmetadata", () => { video.currentTime = hit.start ?? 0; }, { once: true });
      video.addEventListener("error", () => stage.replaceChildren(
        make("img", { src: `/thumb/${hit.hash}?t=${hit.best ?? 0}`, alt: hit.name }),
        make("p", { textContent: "This browser cannot play the file; its best frame is shown." })), { once: true });
      stage.append(video);
      const length = hit.duration || Math.max(hit.end ?? 1, 1);
      const marks = make("div", { className: "ps-marks" });
      marks.setAttribute("role", "group");
      marks.setAttribute("aria-label", "Moments");
      const mark = (from, to, best) => {
        const button = make("button", { type: "button", title: `${clock(from)} – ${clock(to)}` });
        if (best) button.classList.add("best");
        button.setAttribute("aria-label", `${best ? "Best moment" : "Moment"} from ${clock(from)} to ${clock(to)}`);
        button.style.left = `${100 * from / length}%`;
        button.style.width = `${100 * Math.max(to - from, 0) / length}%`;
        button.addEventListener("click", () => { video.currentTime = from; video.play(); });
        marks.append(button);
      };
      if (hit.start !== null) mark(hit.start, hit.end, true);
      fetch(`/moments/${hit.hash}${location.search}`).then((answer) => answer.ok ? answer.json() : []).then((moments) => {
        for (const [from, to] of moments) if (Math.abs(from - hit.start) > 0.05) mark(from, to, false);
      }).catch(() => {});
      parts.push(marks);
    } else {
      const picture = make("img", { src: `/media/${hit.hash}`, alt: hit.name });
      picture.addEventListener("error", () => { picture.src = `/thumb/${hit.hash}`; }, { once: true });
      stage.append(picture);
    }
    const close = make("button", { type: "button", textContent: "Close" });
    close.addEventListener("click", () => viewer.close());
    const why = make("button", { type: "button", textContent: "Why?" });
    why.addEventListener("click", () => {
      if (viewer.querySelector("dl")) return;
      const facts = {
        Rank: hit.rank, "By the index": "…", "By every row": "…",
        "Second look": hit.rerank === null ? "" : `${hit.rerank} (the judge's own scale)`, Score: `${hit.score} (cosine similarity)`,
        Relevance: hit.relevance === null ? "not asked for: tick the filter" : `${Math.round(100 * hit.relevance)} % of everyday captions find nothing as good`,
        "Best frame": hit.best === null ? "" : `at ${clock(hit.best)}`,
        Caption: hit.caption ?? "", Date: hit.date, Size: [hit.pixels, hit.size].filter(Boolean).join(", "),
      };
      const list = make("dl");
      for (const [name, value] of Object.entries(facts))
        if (value !== "") list.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
      viewer.append(list);
      const place = (name, value) => {
        const term = [...list.querySelectorAll("dt")].find((node) => node.textContent === name);
        if (value === undefined) { term.nextSibling.remove(); term.remove(); return; }
        term.nextSibling.textContent = value === null ? "below the 600th" : value;
      };
      fetch(`/ranks/${hit.hash}${location.search}`).then((answer) => answer.ok ? answer.json() : {}).catch(() => ({})).then((ranks) => {
        place("By the index", ranks.index);
        place("By every row", ranks.exact);
      });
      if (hit.start !== null && hit.end !== null) {
        const strip = make("div", { className: "ps-strip" });
        for (let n = 0; n < 5; n++) {
          const t = hit.start + (n + 0.5) * (hit.end - hit.start) / 5;
          strip.append(make("img", { src: `/thumb/${hit.hash}?t=${t.toFixed(1)}`, alt: `${hit.name} at ${clock(t)}` }));
        }
        viewer.append(strip);
      }
    });
    const about = make("div", { className: "ps-about" },
      make("b", { textContent: hit.score.toFixed(3) }), make("span", { textContent: hit.name }),
      make("span", { textContent: [hit.date, hit.duration ? clock(hit.duration) : ""].filter(Boolean).join(" · ") }),
      why, make("a", { href: `/?like=${hit.hash}`, textContent: "More like this" }), close);
    viewer.replaceChildren(...parts, about);
    if (!viewer.open) viewer.showModal();
  };
  document.addEventListener("click", (e) => {
    const card = e.target.closest?.(".ps-open")?.closest(".ps-card");
    if (!card) return;
    cards = [...document.querySelectorAll(".ps-card")];
    show(cards.indexOf(card));
  });

  // What is dropped

  const tell = (text) => { const box = document.getElementById("ps-drop-text"); if (box) box.textContent = text; };
  const usual = "Drop a picture or a short video here, or choose one";
  const clear = () => {
    set("ps-drop", "");
    document.getElementById("ps-drop-picture").hidden = true;
    document.getElementById("ps-drop-clear").hidden = true;
    tell(usual);
  };
  const take = async (file) => {
    if (!file) return;
    tell("Reading it …");
    try {
      const answer = await fetch("/drop", { method: "POST", body: file });
      const text = await answer.text();
      if (!answer.ok) { let said = text; try { said = JSON.parse(text).detail; } catch {} tell(said); return; }
      const { name } = JSON.parse(text);
      const picture = document.getElementById("ps-drop-picture");
      picture.src = `/dropped/${name}`;
      picture.hidden = false;
      document.getElementById("ps-drop-clear").hidden = false;
      tell("Searching by this one, and by your words");
      set("ps-drop", name);
    } catch { tell("It could not be sent; try again."); }
  };
  const zone = (e) => e.target.closest?.("#ps-drop-here");
  document.addEventListener("dragover", (e) => { e.preventDefault(); document.getElementById("ps-drop-here")?.classList.add("over"); });
  document.addEventListener("dragleave", () => document.getElementById("ps-drop-here")?.classList.remove("over"));
  document.addEventListener("drop", (e) => {
    e.preventDefault();
    document.getElementById("ps-drop-here")?.classList.remove("over");
    take(e.dataTransfer?.files?.[0]);
  });
  document.addEventListener("click", (e) => {
    if (e.target.id === "ps-drop-clear") { clear(); return; }
    if (zone(e) && e.target.id !== "ps-drop-file") document.getElementById("ps-drop-file").click();
  });
  document.addEventListener("keydown", (e) => {
    if (zone(e) && e.target.id === "ps-drop-here" && (e.key === "Enter" || e.key === " ")) { e.preventDefault(); document.getElementById("ps-drop-file").click(); }
  });
  document.addEventListener("change", (e) => { if (e.target.id === "ps-drop-file") take(e.target.files[0]); });
})();
