// What a reader would stumble over, as an object: evaluated in the report's page.
(() => {
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const over = (top, under) => { // a colour with alpha on an opaque one
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map((i) => alpha * top[i] + (1 - alpha) * under[i]);
  };
  const luminance = (color) => {
    const [r, g, b] = color.slice(0, 3).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => element === null
    ? [255, 255, 255]
    : over(parse(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const lowContrast = [], tiny = [], outside = [], overlapping = [];
  let numTexts = 0;
  const walker = document.createTreeWalker(document.getElementById("page"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    if (!walker.currentNode.textContent.trim() || !box.width || element.closest("noscript")) continue;
    numTexts += 1;
    const style = getComputedStyle(element);
    const inSvg = element.closest("svg");
    const ink = parse(inSvg ? style.fill : style.color), size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 600);
    const under = ground(inSvg ? inSvg.parentElement : element);
    const shown = walker.currentNode.textContent.slice(0, 30);
    if (contrast(over(ink, under), under) < (isLarge ? 3 : 4.5)) lowContrast.push([shown, style.color, under]);
    if (size < 11) tiny.push([shown, size]);
    if (!element.closest(".scroll") && (box.right > innerWidth + 0.5 || box.left < -0.5)) outside.push(shown);
  }
  for (const svg of document.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim());
    const boxes = texts.map((text) => text.getBoundingClientRect());
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b, k) => {
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 2) overlapping.push([texts[i].textContent, texts[i + 1 + k].textContent]);
    }));
  }
  return {
    scroll_width: document.documentElement.scrollWidth, outside, tiny, overlapping,
    low_contrast: lowContrast, num_texts: numTexts, num_charts: document.querySelectorAll("svg").length,
    theme: luminance(ground(document.body)) < 0.2 ? "dark" : "light",
    verdict: document.querySelector(".verdict").textContent,
  };
})()
