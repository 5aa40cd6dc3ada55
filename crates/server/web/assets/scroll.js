// Keeps the end of a growing text in view, unless the reader has scrolled up.

/// How far from the end still counts as at the end, in CSS pixels.
const NEAR = 48;

export class FollowEnd {
  /// `button` brings the reader back to the end.
  constructor(scroller, button) {
    this.scroller = scroller;
    this.button = button;
    this.following = true;
    this.top = 0;
    scroller.addEventListener('scroll', () => this.scrolled(), { passive: true });
    button.addEventListener('click', () => this.jump());
    new ResizeObserver(() => this.grown()).observe(scroller);
  }

  distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight;
  }

  /// Moving up lets go; coming near the end follows again. Growth alone moves
  /// neither way.
  scrolled() {
    const { scrollTop } = this.scroller;
    if (this.distance() < NEAR) this.following = true;
    else if (scrollTop < this.top) this.following = false;
    this.top = scrollTop;
    this.show();
  }

  /// The content has grown.
  grown() {
    if (this.following) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.show();
  }

  /// Goes to the end and follows from there.
  jump() {
    this.following = true;
    this.grown();
  }

  show() {
    this.button.hidden = this.following || this.distance() < NEAR;
  }
}
