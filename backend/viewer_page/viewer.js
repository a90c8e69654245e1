// The page of `backend view`: the splats by Spark, the cameras and photos as frusta, one frame drawn a change.
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { SparkRenderer, SplatMesh } from "./vendor/spark.module.min.js";

const $ = (id) => document.getElementById(id);
const MAX_CLICK_PX = 4; // a pointer that moved further was dragged
const NEAR = 0.01; // as in pixworld.render
const OPENCV_TO_THREE = new THREE.Matrix4().makeScale(1, -1, -1); // y down, z forward -> y up, z backward

for (const kind of ["error", "unhandledrejection"]) {
  addEventListener(kind, (e) => {
    $("status").textContent = `This cannot be shown: ${e.message ?? e.reason}`;
    $("status").className = "error";
  });
}

const info = await (await fetch("scene.json")).json();
$("name").textContent = document.title = info.name;

const renderer = new THREE.WebGLRenderer({ antialias: false });
renderer.setPixelRatio(devicePixelRatio);
document.body.prepend(renderer.domElement);
const scene = new THREE.Scene();
const view = new THREE.PerspectiveCamera(60, 1, NEAR, 1e5);
view.up.fromArray(info.up);
const orbit = new OrbitControls(view, renderer.domElement); // after `up`, which it reads only now
const centre = new THREE.Vector3().fromArray(info.centre);

let frame = 0;
function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    renderer.render(scene, view);
    document.body.dataset.drawn = performance.now(); // tests wait until this stands still
  });
}

// The semantics of pixworld.render: 0.3 px² low-pass, α from 1/255 (3.33 σ at opacity 1), sorted by z
const spark = new SparkRenderer({
  renderer, onDirty: draw, preBlurAmount: 0.3, blurAmount: 0, maxStdDev: Math.sqrt(2 * Math.log(255)),
  minAlpha: 1 / 255, sortRadial: false, maxPixelRadius: 1e5, clipXY: 3, accumExtSplats: true,
});
const splats = new SplatMesh({ url: "scene.ply", extSplats: true }); // float32 centres
scene.add(spark, splats);

// --- cameras

const frusta = new THREE.Group();
scene.add(frusta);
const textures = new THREE.TextureLoader();

function makeFrustum(camera) {
  const { fx, fy, cx, cy, width, height } = camera;
  const corner = (x, y) => [(x - cx) / fx, (y - cy) / fy, 1];
  const [a, b, c, d] = [corner(0, 0), corner(width, 0), corner(width, height), corner(0, height)];
  const o = [0, 0, 0];
  const positions = (points) => new THREE.Float32BufferAttribute(points.flat(), 3);
  const lines = new THREE.BufferGeometry();
  lines.setAttribute("position", positions([o, a, o, b, o, c, o, d, a, b, b, c, c, d, d, a]));
  const plane = new THREE.BufferGeometry();
  plane.setAttribute("position", positions([a, b, c, d]));
  plane.setAttribute("uv", new THREE.Float32BufferAttribute([0, 1, 1, 1, 1, 0, 0, 0], 2));
  plane.setIndex([0, 1, 2, 0, 2, 3]);

  const colour = camera.split === "holdout" ? 0x4aa3ff : 0xffb000;
  const photo = new THREE.Mesh(plane, new THREE.MeshBasicMaterial({ side: THREE.DoubleSide, transparent: true }));
  if (camera.photo) {
    photo.material.map = textures.load(camera.photo, draw);
    photo.material.map.colorSpace = THREE.SRGBColorSpace;
  }
  const frustum = new THREE.Group();
  frustum.add(new THREE.LineSegments(lines, new THREE.LineBasicMaterial({ color: colour })), photo);
  frustum.matrixAutoUpdate = false;
  frusta.add(frustum);
  return { ...camera, pose: new THREE.Matrix4().set(...camera.c2w), frustum, photo };
}
const cameras = info.cameras.map(makeFrustum);
let at = -1; // the camera that is looked through, or -1

function showFrusta() {
  const size = info.size * 2 ** $("size").valueAsNumber;
  cameras.forEach(({ pose, frustum, photo, photo: { material } }, i) => {
    // at the camera itself only its photo is of use, as a foil over the view
    const over = i === at ? $("over").valueAsNumber : 1;
    const reach = i === at ? 1 : size; // a foil may be at any distance
    frustum.matrix.copy(pose).scale(new THREE.Vector3(reach, reach, reach));
    frustum.visible = i === at ? over > 0 : $("frusta").checked;
    frustum.children[0].visible = i !== at;
    // while one camera is looked through, the photos of the others would hide what it sees
    photo.visible = material.map !== null && (i === at || (at < 0 && $("photos").checked));
    photo.renderOrder = i === at ? 1 : 0;
    material.depthTest = i !== at;
    // an opaque photo is drawn before the splats, which it then hides and is hidden by as a solid thing
    material.transparent = i === at;
    material.opacity = over;
    material.needsUpdate = true;
  });
  $("at").value = at;
  $("over").disabled = at < 0;
  draw();
}

// Look through camera i: the whole photo fills the window, at its exact intrinsics.
function lookThrough(i) {
  at = i;
  cameras[i].pose.clone().multiply(OPENCV_TO_THREE).decompose(view.position, view.quaternion, view.scale);
  const forward = view.getWorldDirection(new THREE.Vector3());
  const depth = centre.clone().sub(view.position).dot(forward);
  orbit.target.copy(view.position).addScaledVector(forward, Math.max(depth, 10 * NEAR));
  fit();
  showFrusta();
}

function fit() {
  const [w, h] = [innerWidth, innerHeight];
  renderer.setSize(w, h);
  view.aspect = w / h;
  view.clearViewOffset();
  if (at >= 0) {
    const { fx, fy, cx, cy, width, height } = cameras[at];
    const scale = Math.max(width / w, height / h); // photo pixels a window pixel
    const [W, H] = [w * scale, h * scale];
    view.fov = THREE.MathUtils.radToDeg(2 * Math.atan(H / 2 / fy));
    view.setViewOffset(W, H, width / 2 - cx, height / 2 - cy, W, H); // the principal point off the centre
    view.aspect = W / fx / (H / fy); // after setViewOffset, which sets it for square pixels
  }
  view.updateProjectionMatrix();
  draw();
}

function pick(x, y) {
  const ray = new THREE.Raycaster();
  ray.setFromCamera(new THREE.Vector2((2 * x) / innerWidth - 1, 1 - (2 * y) / innerHeight), view);
  const hit = ray.intersectObjects(cameras.filter((_, i) => i !== at).map((c) => c.photo))[0];
  return cameras.findIndex((c) => c.photo === hit?.object);
}

// --- input

orbit.addEventListener("change", () => {
  if (at >= 0) {
    at = -1;
    showFrusta();
  }
  draw();
});
let down = null;
renderer.domElement.addEventListener("pointerdown", (e) => (down = e), true);
renderer.domElement.addEventListener("pointerup", (e) => {
  if (!down || e.button !== 0 || !$("frusta").checked || Math.hypot(e.x - down.x, e.y - down.y) > MAX_CLICK_PX) return;
  const i = pick(e.x, e.y);
  if (i >= 0) lookThrough(i);
});
for (const id of ["frusta", "photos", "size", "over"]) $(id).addEventListener("input", showFrusta);
$("splats").addEventListener("input", () => {
  splats.visible = $("splats").checked;
  draw();
});
$("at").addEventListener("input", () => lookThrough(+$("at").value));
addEventListener("keydown", (e) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (!step || !cameras.length || e.target.matches("input, select")) return;
  lookThrough((Math.max(at, 0) + step + cameras.length) % cameras.length);
});
addEventListener("resize", fit);

// --- start

if (cameras.length) {
  $("controls").hidden = $("hint").hidden = false;
  $("at").append(new Option("-", -1), ...cameras.map((c, i) => new Option(c.name, i)));
  $("at").options[0].disabled = true;
  lookThrough(0);
} else {
  // from a little above, far enough for most of the scene
  view.position.copy(centre).add(new THREE.Vector3().fromArray(info.from));
  orbit.target.copy(centre);
  orbit.update();
  fit();
}
await splats.initialized;
$("status").textContent = info.summary;
draw();
