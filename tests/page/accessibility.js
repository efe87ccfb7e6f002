({
  // WCAG 2.2, 1.4.3 (AA): every text that is shown against the background behind it.
  contrast() {
    const parse = (text) => {
      const found = text.match(/[\d.]+/g).map(Number);
      return { rgb: found.slice(0, 3), alpha: found.length > 3 ? found[3] : 1 };
    };
    const behind = (element) => {
      for (let each = element; each; each = each.parentElement) {
        const found = parse(getComputedStyle(each).backgroundColor);
        if (found.alpha === 1) return found.rgb;
        if (found.alpha > 0) throw new Error(`a half transparent background: ${each.className}`);
      }
      return [255, 255, 255];
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const poor = [];
    let seen = 0;
    while (texts.nextNode()) {
      const element = texts.currentNode.parentElement;
      const text = texts.currentNode.textContent.trim();
      if (!text || element.closest("script, noscript, title, .hoverlayer")) continue;
      if (!element.getClientRects().length) continue;
      const style = getComputedStyle(element);
      const ink = element instanceof SVGElement ? style.fill : style.color;
      if (ink === "none" || parse(ink).alpha === 0) continue;
      const ratio = this.ratio(parse(ink).rgb, behind(element));
      const size = parseFloat(style.fontSize);
      const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      seen += 1;
      if (ratio < (isLarge ? 3 : 4.5)) poor.push([text, ratio]);
    }
    return { seen, poor };
  },

  // WCAG 2.2, 1.4.11 (AA): the colours of lines and markers against the sections' background.
  lines() {
    const style = getComputedStyle(document.documentElement);
    const rules = [...document.styleSheets[0].cssRules[0].style];
    const backgrounds = ["--page", "--surface", "--border", "--grid", "--notice"];
    const rgb = (name) => style.getPropertyValue(name).match(/[0-9a-f]{2}/gi).map((hex) => parseInt(hex, 16));
    return rules
      .filter((name) => name.startsWith("--") && !backgrounds.includes(name))
      .map((name) => [name, this.ratio(rgb(name), rgb("--surface"))]);
  },

  structure() {
    const wrong = [];
    const all = (selector, root = document) => [...root.querySelectorAll(selector)];
    const unless = (isRight, text) => { if (!isRight) wrong.push(text); };
    const ids = all("[id]").filter((each) => !(each instanceof SVGElement)).map((each) => each.id);
    unless(new Set(ids).size === ids.length, "ids repeat");
    for (const selector of ["h1", "main", "body > header", "body > footer", "nav"]) {
      unless(all(selector).length === 1, `${selector}: ${all(selector).length}`);
    }
    unless(document.documentElement.lang === "en", "no language");
    for (const name of ["aria-labelledby", "aria-describedby"]) {
      for (const each of all(`[${name}]`)) {
        const named = document.getElementById(each.getAttribute(name));
        unless(named && named.textContent.trim(), `${each.id}: ${name} points nowhere`);
      }
    }
    for (const each of all("section")) unless(each.querySelector("h2"), `${each.id} has no heading`);
    for (const each of all("img, [role=img], [role=region], [role=group]")) {
      unless(each.getAttribute("aria-label") || each.alt, `${each.id || each.className} has no name`);
    }
    for (const each of all("[role=img]")) {
      const inside = all("a[href], button, [tabindex]", each).filter((found) => found.tabIndex >= 0);
      unless(!inside.length, `${each.id} hides what takes the focus`);
    }
    for (const each of all("select, input")) unless(each.labels.length, `${each.id} has no label`);
    for (const each of all("button")) {
      unless((each.getAttribute("aria-label") || each.textContent).trim(), "a button has no name");
    }
    for (const each of all("table")) {
      unless(each.caption && each.caption.textContent.trim(), `${each.id} has no caption`);
      unless(all("thead th", each).every((cell) => cell.scope === "col"), `${each.id}: columns`);
      unless(all("tbody tr", each).every((row) => row.cells[0].scope === "row"), `${each.id}: rows`);
    }
    for (const each of all("[tabindex]")) unless(each.tabIndex <= 0, `${each.id} jumps the order`);
    for (const each of all("button, select, summary")) {
      // WCAG 2.2, 2.5.8 (AA)
      const { width, height } = each.getBoundingClientRect();
      unless(!width || (width >= 24 && height >= 24), `${each.textContent.trim()}: ${width} x ${height}`);
    }
    return wrong;
  },

  ratio(one, two) {
    const luminance = (rgb) => {
      const linear = rgb.map((each) => {
        const value = each / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const [high, low] = [luminance(one), luminance(two)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  },
})
