// Sets the chosen theme before the first paint. A classic script, since
// modules run only after the page has been laid out.
(() => {
  try {
    const theme = localStorage.getItem('quarrel.theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is forbidden here; the system's theme is used.
  }
})();
