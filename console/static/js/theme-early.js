// Runs before the first paint, so that a chosen theme does not flash the other one. Not a module: those wait.
(() => {
  try {
    const theme = localStorage.getItem('weir.theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is forbidden in some browsers; the theme is the system's then.
  }
})();
