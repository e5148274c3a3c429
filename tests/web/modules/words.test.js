import assert from "node:assert/strict";
import { test } from "node:test";
import { shorten, word } from "../../../src/joyimage/web/static/words.js";

test("prompt is shortened to the line that tells it from others", () => {
  const camera = { kind: "camera", yaw: 45, pitch: 15, zoom: "unchanged" };
  assert.equal(shorten(word(camera, "documented")), "Camera rotation: Yaw 45°, Pitch 15°.");
  assert.equal(shorten("Make it night.\nKeep the car."), "Make it night.");
  assert.equal(shorten("Move the camera."), "Move the camera.");
});
